package agent

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// transparentRoutes is the routing table that takes everything for local. Istio's
// number.
const transparentRoutes = 133

// routeMarked makes packets with [transparentMark] local, whatever their
// destination, and reads that back. That it has been done before is fine.
func (f family) routeMarked() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	everything := &net.IPNet{IP: make(net.IP, f.bits/8), Mask: net.CIDRMask(0, f.bits)}
	err = netlink.RouteReplace(&netlink.Route{
		Family: f.socket, Table: transparentRoutes, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		Dst: everything, LinkIndex: lo.Attrs().Index,
	})
	if errors.Is(err, unix.EACCES) && f.socket == unix.AF_INET6 {
		return nil // lo has IPv6 switched off: nothing is local there, captured or not
	}
	if err != nil {
		return fmt.Errorf("adding the route: %w", err)
	}
	routes, err := netlink.RouteListFiltered(f.socket, &netlink.Route{Table: transparentRoutes}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("reading back the route: %w", err)
	}
	if len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL || routes[0].LinkIndex != lo.Attrs().Index ||
		routes[0].Dst == nil || routes[0].Dst.String() != everything.String() {
		return fmt.Errorf("table %d read back with other routes: %v", transparentRoutes, routes)
	}

	// The kernel would take the same rule again.
	if ruled, err := f.marksRuled(); err != nil || ruled {
		return err
	}
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Table = f.socket, transparentMark, transparentRoutes
	if err := netlink.RuleAdd(rule); err != nil {
		return fmt.Errorf("adding the rule: %w", err)
	}
	ruled, err := f.marksRuled()
	if err == nil && !ruled {
		err = errors.New("the rule cannot be read back")
	}
	return err
}

func (f family) marksRuled() (bool, error) {
	rules, err := netlink.RuleList(f.socket)
	if err != nil {
		return false, fmt.Errorf("reading rules: %w", err)
	}
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool {
		return r.Mark == transparentMark && r.Table == transparentRoutes && (r.Mask == nil || *r.Mask == math.MaxUint32)
	}), nil
}
