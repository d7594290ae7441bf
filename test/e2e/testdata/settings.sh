# settings.sh FILE: rolls the injector out with the lines of FILE added to its
# settings; settings.sh: with those that it had before. Returns when the replicas that
# had others are gone: they answer as long as they linger.
set -eu
k="kubectl -n istio-system"
if [ $# = 1 ]; then
	$k get deployment injector -o 'jsonpath={.spec.template.spec.volumes[?(@.name=="settings")].configMap.name}' >name
	$k get configmap "$(cat name)" -o 'jsonpath={.data.injector\.yaml}' >installed.yaml
	{ cat installed.yaml; echo; cat "$1"; } >injector.yaml
else
	cp installed.yaml injector.yaml
fi
$k create configmap "$(cat name)" --from-file=injector.yaml --dry-run=client -o json >settings.json
$k patch configmap "$(cat name)" --type=merge --patch-file=settings.json
$k rollout restart deployment/injector
$k rollout status deployment/injector --timeout=240s
until [ "$($k get pods -l app=injector -o name | wc -l)" = 2 ]; do sleep 0.2; done
