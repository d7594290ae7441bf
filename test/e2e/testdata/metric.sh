# metric.sh NAME [APP]: the values of a metric at the replicas of the injector, or of
# another server, a word for each that has it.
set -eu
live='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.status.podIP}} {{end}}{{end}}'
values=
for ip in $(kubectl -n istio-system get pods -l "app=${2:-injector}" -o go-template="$live"); do
	values="$values $(curl -sS -m 5 "http://$ip:15014/metrics" | awk -v name="$1" '$1 == name { print $2 }')"
done
echo $values
