# answered.sh NAMESPACE FROM TO: of what the namespace's talker was answered after
# second FROM, to TO (since 1970), all must be 200, and there must be one for every
# two seconds at least: a request that hangs has not been answered. The second FROM
# itself does not count: its first part lies before it was looked at.
set -eu
kubectl -n "$1" exec deploy/talker -c talker -- cat /tmp/answers |
	awk -v from="$2" -v to="$3" '
		$1 <= from || $1 > to { next }
		{ n++ }
		$2 != "200" { bad++; print "at " $1 ": " $2 }
		END {
			printf "%d answers in %d s, %d of them not 200\n", n, to - from, bad
			exit (bad > 0 || n * 2 < to - from)
		}'
