# held.sh LEASE SINCE: says by whom the lease is held, if by a pod that runs and has
# renewed it after SINCE (seconds since 1970).
set -eu
lease=$(kubectl -n istio-system get lease "$1" -o 'jsonpath={.spec.holderIdentity} {.spec.renewTime}')
holder=${lease% *}
[ "$(date -u -d "${lease#* }" +%s)" -gt "$2" ] || { echo "not renewed: $lease" && exit 1; }
kubectl -n istio-system get pod "$holder" -o 'jsonpath=held by {.metadata.name}, {.status.phase}'
