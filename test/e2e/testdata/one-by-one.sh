# Deletes the pods of a server one after the other, waiting each time until the
# deployment is whole again and the old pod has ended.
set -eu
for pod in $(kubectl -n istio-system get pods -l app="$1" -o name); do
	kubectl -n istio-system delete "$pod" --timeout=120s
	kubectl -n istio-system rollout status "deployment/$1" --timeout=180s
done
