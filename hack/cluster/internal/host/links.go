package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/node"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
)

// Taken returns the ranges that the host has a route to, in any of its tables.
func Taken() ([]netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		if ok {
			taken = append(taken, netip.PrefixFrom(addr, ones))
		}
	}
	return taken, nil
}

// AddBridge adds the cluster's bridge with the host's address on it.
func AddBridge(c plan.Cluster) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: c.Bridge()}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("bridge %s: %w", c.Bridge(), err)
	}
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(c.HostAddr())}); err != nil {
		return fmt.Errorf("bridge %s: address %v: %w", c.Bridge(), c.HostAddr(), err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("bridge %s: %w", c.Bridge(), err)
	}
	return nil
}

// Wire joins node n, whose first process is pid, to the bridge, and adds the
// host's routes to it.
func Wire(c plan.Cluster, n, pid int) error {
	bridge, err := netlink.LinkByName(c.Bridge())
	if err != nil {
		return fmt.Errorf("bridge %s: %w", c.Bridge(), err)
	}
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: c.Veth(n), MasterIndex: bridge.Attrs().Index},
		PeerName:      node.Interface,
		PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("interface %s: %w", c.Veth(n), err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("interface %s: %w", c.Veth(n), err)
	}
	ranges := []netip.Prefix{c.NodePods(n)}
	if n == 1 {
		ranges = append(ranges, c.ServiceNet()) // so that a test on the host reaches ClusterIPs
	}
	for _, r := range ranges {
		route := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(r), Gw: c.NodeAddr(n).Addr().AsSlice()}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route to %v: %w", r, err)
		}
	}
	return nil
}

// Links returns the names of the cluster's links.
func Links(cluster string) ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("links: %w", err)
	}
	var names []string
	for _, l := range links {
		if name := l.Attrs().Name; plan.IsLink(cluster, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// removeLinks removes the cluster's links; their routes go with them.
func removeLinks(cluster string) error {
	names, err := Links(cluster)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		// The interface of a node that has just ended goes by itself.
		var gone netlink.LinkNotFoundError
		if err != nil && !errors.As(err, &gone) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("link %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
