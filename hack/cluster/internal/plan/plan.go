// Package plan decides what a cluster of the lab is called and which addresses
// it uses: everything that it adds to the host has a name and a range that
// follow from the cluster's name, so that what is left of a cluster can be found
// without a record of it, and two clusters never meet.
//
// It is pure: it looks at nothing, and refuses names that the kernel would cut
// short. Start reading at [New]; [Pick] chooses the range.
package plan

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
)

// MaxNodes is how many nodes a cluster may have.
const MaxNodes = 4

// prefix starts every name on the host.
const prefix = "gl-"

// beforeNode stands before a node's number in the name of its interface. No
// cluster's name has it, so no bridge is called like another's interface.
const beforeNode = "."

// maxName is the length of the longest name of a cluster: an interface's name
// has at most 15 bytes.
const maxName = 15 - len(prefix) - len(beforeNode+"1")

var wellFormed = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)

// Cluster is the checked plan of one cluster. Only [New] makes one.
type Cluster struct {
	name  string
	net   netip.Prefix
	nodes int
}

// New checks the name and the number of nodes. The net is a /16 as [Pick]
// returns it: the nodes get its first /24, the pods its second /20, a /24 for
// each node, and the Services its upper half.
func New(name string, net netip.Prefix, nodes int) (Cluster, error) {
	if err := CheckName(name); err != nil {
		return Cluster{}, err
	}
	if nodes < 1 || nodes > MaxNodes {
		return Cluster{}, fmt.Errorf("nodes=%d: want 1 to %d", nodes, MaxNodes)
	}
	if !net.Addr().Is4() || net.Bits() != 16 || net != net.Masked() {
		return Cluster{}, fmt.Errorf("net %v: want an IPv4 /16", net)
	}
	return Cluster{name: name, net: net, nodes: nodes}, nil
}

// CheckName says whether a cluster may be called name, and if not, why.
func CheckName(name string) error {
	if len(name) > maxName || !wellFormed.MatchString(name) {
		return fmt.Errorf("cluster name %q: want 1 to %d of a-z, 0-9 and -, starting with a letter", name, maxName)
	}
	return nil
}

// HostName is the name of the bridge on the host and of the cgroup folder in
// each hierarchy. It starts the names of the interfaces, see [IsLink].
func HostName(cluster string) string { return prefix + cluster }

// IsLink reports whether a link of the host is the bridge or an interface of
// the cluster.
func IsLink(cluster, link string) bool {
	if link == HostName(cluster) {
		return true
	}
	for n := 1; n <= MaxNodes; n++ {
		if link == veth(cluster, n) {
			return true
		}
	}
	return false
}

func veth(cluster string, n int) string { return HostName(cluster) + beforeNode + strconv.Itoa(n) }

// Name is the cluster's own name.
func (c Cluster) Name() string { return c.name }

// Nodes is how many nodes it has.
func (c Cluster) Nodes() int { return c.nodes }

// Net holds all addresses of the cluster.
func (c Cluster) Net() netip.Prefix { return c.net }

// Bridge is the host's link that the nodes are joined by.
func (c Cluster) Bridge() string { return HostName(c.name) }

// Veth is the host's end of node n's interface.
func (c Cluster) Veth(n int) string { return veth(c.name, n) }

// Node is the name of node n, counted from 1, inside the cluster.
func (c Cluster) Node(n int) string { return "node" + strconv.Itoa(n) }

// Cgroup is the folder of node n in each hierarchy, as the kubelet wants it.
func (c Cluster) Cgroup(n int) string { return "/" + HostName(c.name) + "/" + c.Node(n) }

// HostAddr is the host's address on the bridge, with the length of its net.
func (c Cluster) HostAddr() netip.Prefix { return netip.PrefixFrom(c.at(0, 1), 24) }

// NodeAddr is the address of node n, with the length of its net.
func (c Cluster) NodeAddr(n int) netip.Prefix { return netip.PrefixFrom(c.at(0, byte(n+1)), 24) }

// PodNet is the range of all pods.
func (c Cluster) PodNet() netip.Prefix { return netip.PrefixFrom(c.at(16, 0), 20) }

// NodePods is the range of the pods of node n.
func (c Cluster) NodePods(n int) netip.Prefix { return netip.PrefixFrom(c.at(byte(16+n), 0), 24) }

// ServiceNet is the range of the ClusterIPs.
func (c Cluster) ServiceNet() netip.Prefix { return netip.PrefixFrom(c.at(128, 0), 17) }

// APIService is the ClusterIP of the API server.
func (c Cluster) APIService() netip.Addr { return c.at(128, 1) }

// DNS is the ClusterIP of CoreDNS.
func (c Cluster) DNS() netip.Addr { return c.at(128, 10) }

// Mirror is where node 1 serves the cluster's images: address and port.
func (c Cluster) Mirror() string { return c.NodeAddr(1).Addr().String() + ":5000" }

// Server is the URL of the API server.
func (c Cluster) Server() string { return "https://" + c.NodeAddr(1).Addr().String() + ":6443" }

func (c Cluster) at(third, fourth byte) netip.Addr {
	a := c.net.Addr().As4()
	return netip.AddrFrom4([4]byte{a[0], a[1], third, fourth})
}
