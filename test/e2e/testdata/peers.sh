# peers.sh NAMESPACE FILE: until FILE is there, verifies the certificate of each sidecar
# of the namespace by the roots that every other one holds, over and over. A pod that
# comes or goes meanwhile is left out, and time does not count: it is about roots.
set -eu
live='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}'
rounds=0
until [ -e "$2" ]; do
	rm -rf peers && mkdir peers
	for pod in $(kubectl -n "$1" get pods -l security.istio.io/tlsMode=istio --field-selector=status.phase=Running -o go-template="$live"); do
		if kubectl -n "$1" exec "$pod" -c istio-proxy -- sh -c 'cd /etc/certs/..data && cat cert-chain.pem && echo ROOTS && cat root-cert.pem' >held 2>/dev/null; then
			sed '/^ROOTS$/,$d' held >"peers/$pod.chain"
			sed '1,/^ROOTS$/d' held >"peers/$pod.roots"
		fi
	done
	for roots in peers/*.roots; do
		for chain in peers/*.chain; do
			[ -e "$chain" ] || continue
			if ! openssl verify -no_check_time -CAfile "$roots" -untrusted "$chain" "$chain" >peers.log 2>&1; then
				echo "$(date +%T) $roots does not vouch for $chain"
				cat peers.log "$roots" "$chain"
				exit 1
			fi
		done
	done
	[ "$(ls peers | wc -l)" -lt 4 ] || rounds=$((rounds + 1))
done
echo "$rounds rounds of two peers at least"
[ "$rounds" -gt 5 ]
