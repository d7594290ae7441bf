# trust.sh: appends the root that corporate.sh made to those in old-root.pem, which are
# published; untrust.json is the way back.
printf '{"data":{"root-cert.pem":"%s"}}' "$(base64 -w0 <old-root.pem)" >untrust.json
{ cat old-root.pem; echo; cat root-cert.pem; } >both.pem
kubectl -n istio-system patch secret istio-ca-secret --type=merge -p "{\"data\":{\"root-cert.pem\":\"$(base64 -w0 both.pem)\"}}"
