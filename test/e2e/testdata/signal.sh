# signal.sh SIGNAL POD CONTAINER: signals the processes of a pod of istio-system from
# the node, past the kubelet. The lab's processes are this machine's: each has its
# container's id in the name of its control group.
set -eu
id=$(kubectl -n istio-system get pod "$2" -o "jsonpath={.status.containerStatuses[?(@.name=='$3')].containerID}")
id=${id#containerd://}
[ ${#id} = 64 ] || { echo "no container $3 in $2: '$id'" >&2 && exit 1; }
found=
for group in $(grep -ls "$id" /proc/[0-9]*/cgroup); do
	pid=${group#/proc/} pid=${pid%/cgroup}
	kill -s "$1" "$pid"
	found="$found $pid"
done
[ "$found" ] || { echo "no process of $id" >&2 && exit 1; }
echo "$1 to$found"
