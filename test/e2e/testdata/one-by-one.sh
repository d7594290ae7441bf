# Deletes the pods of a server one after the other, waiting each time until the old
# pod has ended and the deployment is whole again.
set -eu
live='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}'
for pod in $(kubectl -n istio-system get pods -l app="$1" -o go-template="$live"); do
	kubectl -n istio-system delete pod "$pod" --timeout=120s
	kubectl -n istio-system rollout status "deployment/$1" --timeout=180s
done
