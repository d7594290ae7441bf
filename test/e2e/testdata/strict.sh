# strict.sh NAMESPACE POD PORT…: rejects what comes to these ports from outside the
# pod, ahead of the capture, as STRICT will; then opens the gate, the pod's init
# container that waits for it. The lab's processes are this machine's: each has its
# container's id in the name of its control group.
set -eu
namespace=$1 pod=$2
shift 2
id=$(kubectl -n "$namespace" get pod "$pod" -o 'jsonpath={.status.initContainerStatuses[?(@.name=="gate")].containerID}')
id=${id#containerd://}
[ ${#id} = 64 ] || { echo "no gate in $pod: '$id'" >&2 && exit 1; }
group=$(grep -ls "$id" /proc/[0-9]*/cgroup | head -n 1)
pid=${group#/proc/} pid=${pid%/cgroup}
nsenter --net --target "$pid" nft -f - <<-RULES
	table inet strict {
		chain outside {
			type filter hook prerouting priority raw;
			iifname != "lo" tcp dport { $(echo "$@" | tr ' ' ',') } reject with tcp reset
		}
	}
RULES
kubectl -n "$namespace" exec "$pod" -c gate -- touch /tmp/open
