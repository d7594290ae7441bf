package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
)

// Interface is the node's own end of its link to the host's bridge.
const Interface = "eth0"

// network sets up the interfaces, routes and settings of the node's network
// namespace. The files under /proc/sys/net are this namespace's, not the host's.
func network(c plan.Cluster, n int) error {
	for _, file := range []string{"ipv4/ip_forward", "bridge/bridge-nf-call-iptables"} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("%w (is the kernel's br_netfilter there?)", err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	eth, err := netlink.LinkByName(Interface)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(c.NodeAddr(n))}); err != nil {
		return fmt.Errorf("address %v: %w", c.NodeAddr(n), err)
	}
	if err := netlink.LinkSetUp(eth); err != nil {
		return fmt.Errorf("%s: %w", Interface, err)
	}
	route := func(to *net.IPNet, via netip.Addr) error {
		err := netlink.RouteAdd(&netlink.Route{Dst: to, Gw: via.AsSlice()})
		if err != nil {
			return fmt.Errorf("route to %v: %w", to, err)
		}
		return nil
	}
	// The host forwards nothing for us; but without a default route a process of
	// the node's own network could not even try a ClusterIP.
	if err := route(&net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, c.HostAddr().Addr()); err != nil {
		return err
	}
	for other := 1; other <= c.Nodes(); other++ {
		if other == n {
			continue
		}
		if err := route(ipNet(c.NodePods(other)), c.NodeAddr(other).Addr()); err != nil {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
