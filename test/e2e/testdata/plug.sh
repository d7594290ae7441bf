# plug.sh ROOTS: plugs in the CA that corporate.sh made, with these roots.
kubectl -n istio-system create secret generic cacerts --from-file=ca-cert.pem --from-file=ca-key.pem \
	--from-file=cert-chain.pem --from-file=root-cert.pem="$1"
