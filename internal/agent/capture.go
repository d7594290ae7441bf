package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// maxCaptured bounds the ports and ranges of a [Capture], all lists together.
const maxCaptured = 512

// Capture says which TCP connections of a network namespace go through the proxy:
// of those that arrive from outside, and of those that leave. Both versions of IP
// are captured where the namespace has both. The zero lists capture everything.
//
// Loopback is left alone, so containers of a pod talk to each other directly, and
// so is everything that the proxy itself sends, or it would be fed itself: under
// REDIRECT that is a user, and its group is no exemption, because any container
// may ask for a group; under TPROXY, where the proxy runs as root, it is a group.
type Capture struct {
	// Transparent is Istio's TPROXY: the application sees the address of its caller
	// instead of the pod's own. Incoming connections reach the proxy with both of
	// their addresses, and what the proxy sends on for them bears transparentMark.
	// Outgoing connections are redirected as ever.
	//
	// It has a price. The proxy runs as user 0 of group ProxyGID and needs NET_ADMIN
	// all its life. And it dials the application from the caller's address, but from
	// a port that the kernel picks: where that happens to be the caller's port, once
	// in some ten thousand connections, the connection fails after its timeout.
	Transparent bool

	ProxyUID     uint32 // user of the proxy, not for Transparent
	ProxyGID     uint32 // group of the proxy, for Transparent
	InboundPort  uint16 // where the proxy takes what arrives
	OutboundPort uint16 // where the proxy takes what leaves

	// Ports that connections from outside are captured at, but for the excluded.
	// As in Istio, the exclusion counts only where the inclusion has no limit: a
	// port that is included by its number is captured.
	IncludeInbound Selection[uint16]
	ExcludeInbound []uint16

	// Where connections to the outside are captured, by the first that matches:
	// excluded ports and ranges are not, included ports and ranges are, the rest is
	// not. A version of IP that a limited IncludeRanges does not name is the rest.
	ExcludePorts  []uint16
	ExcludeRanges []netip.Prefix
	IncludePorts  []uint16
	IncludeRanges Selection[netip.Prefix]
}

// Selection is a choice among many: everything, or what it is limited to.
type Selection[T any] struct {
	Limited bool
	To      []T
}

// Check reports values that would not capture, would capture for ever, or
// contradict each other, all at once, by the names of the flags of `agent redirect`.
func (c Capture) Check() error {
	var errs []error
	complain := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("-"+flag+": "+format, args...))
	}
	if c.ProxyUID == 0 && !c.Transparent {
		complain("proxy-uid", "0 would exempt every process of root")
	}
	if c.ProxyGID == 0 && c.Transparent {
		complain("proxy-gid", "0 would exempt every process of root's group")
	}
	if c.InboundPort == 0 {
		complain("inbound-port", "must not be 0")
	}
	if c.OutboundPort == 0 {
		complain("outbound-port", "must not be 0")
	}
	if c.InboundPort == c.OutboundPort {
		complain("outbound-port", "%d is the inbound port, too", c.OutboundPort)
	}
	ports := map[string][]uint16{
		setIncludeInbound: c.IncludeInbound.To, setExcludeInbound: c.ExcludeInbound,
		setIncludePorts: c.IncludePorts, setExcludePorts: c.ExcludePorts,
	}
	ranges := map[string][]netip.Prefix{setIncludeRanges: c.IncludeRanges.To, setExcludeRanges: c.ExcludeRanges}
	sum := 0
	for _, flag := range []string{setIncludeInbound, setExcludeInbound, setIncludePorts, setExcludePorts} {
		sum += len(ports[flag])
		for _, port := range ports[flag] {
			inbound := flag == setIncludeInbound || flag == setExcludeInbound
			if port == 0 || inbound && (port == c.InboundPort || port == c.OutboundPort) {
				complain(flag, "%d: not a port that could be reached", port)
			}
		}
	}
	for _, flag := range []string{setIncludeRanges, setExcludeRanges} {
		sum += len(ranges[flag])
		for _, r := range ranges[flag] {
			switch {
			case !r.IsValid():
				complain(flag, "not a range of addresses")
			case r.Addr().Is4In6():
				complain(flag, "%s: an IPv4 range in IPv6's spelling", r)
			case flag == setIncludeRanges && r.Addr().IsLoopback():
				complain(flag, "%s: loopback is never captured", r)
			}
		}
	}
	if !c.IncludeInbound.Limited && len(c.IncludeInbound.To) > 0 {
		complain(setIncludeInbound, "everything, and some ports besides")
	}
	if !c.IncludeRanges.Limited && len(c.IncludeRanges.To) > 0 {
		complain(setIncludeRanges, "everything, and some ranges besides")
	}
	if sum > maxCaptured {
		errs = append(errs, fmt.Errorf("%d included and excluded ports and ranges: at most %d", sum, maxCaptured))
	}
	return errors.Join(errs...)
}

// Install puts the rules into the current network namespace in one transaction,
// in place of those of an earlier call, and reads them back. It needs NET_ADMIN
// and Linux 5.9, the first to refuse connections before they are redirected.
// Routes that an earlier call made for Transparent stay; without the rules nothing
// takes them.
func (c Capture) Install(ctx context.Context, log *slog.Logger) error {
	if err := c.Check(); err != nil {
		return err
	}
	ipv6, err := hasIPv6()
	if err != nil {
		return err
	}
	families := []family{familyIPv4}
	if ipv6 {
		families = append(families, familyIPv6)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("netfilter: %w", err)
	}
	tables := make([]*table, len(families))
	for i, f := range families {
		if c.Transparent {
			if err := f.routeMarked(); err != nil {
				return fmt.Errorf("route of marked packets: %s: %w", f.name, err)
			}
		}
		tables[i] = c.table(f)
		if err := tables[i].add(conn); err != nil {
			return fmt.Errorf("netfilter table %s: %w", tables[i], err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("netfilter: %w", err)
	}
	for _, t := range tables {
		if err := t.verify(conn); err != nil {
			return fmt.Errorf("netfilter table %s: %w", t, err)
		}
		for _, s := range t.sets {
			log.InfoContext(ctx, "capture set made", "table", t.String(), "set", s.name, "elements", s.text)
		}
		for _, ch := range t.chains {
			for _, r := range ch.rules {
				log.InfoContext(ctx, "capture rule set", "table", t.String(), "chain", ch.name, "rule", r.text)
			}
		}
	}
	return nil
}

// table is the whole of the rules for one version of IP, as a pure function.
func (c Capture) table(f family) *table {
	t := &table{family: f}
	t.chains = []chain{{
		// Runs before the redirect, where a captured connection still bears the
		// port that its sender dialled. One that names the proxy's own port
		// would make the proxy dial itself.
		name: "refuse", kind: nftables.ChainTypeFilter,
		hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityMangle,
		rules: []rule{
			join(in("lo"), pass()),
			join(to(c.InboundPort), reset()),
			join(to(c.OutboundPort), reset()),
		},
	}}
	if c.Transparent {
		t.chains = append(t.chains, chain{
			name: "inbound", kind: nftables.ChainTypeFilter,
			hook: nftables.ChainHookPrerouting, priority: new(*nftables.ChainPriorityMangle + 1),
			rules: slices.Concat(
				[]rule{
					join(in("lo"), pass()),
					join(tcp(), ofTransparentSocket(), setMark(), accept()),
				},
				// Without the proxy, the packet would go on to the application.
				c.inbound(t, join(tproxy(f, c.InboundPort), setMark(), accept()), join(opening(), reset()))),
		}, chain{
			// The proxy's connection to the application names the caller as its
			// source. What the application answers would leave for the caller: the
			// connection passes its mark on to it, and the mark its way back.
			name: "answers", kind: nftables.ChainTypeRoute,
			hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityMangle,
			rules: []rule{
				join(out("lo"), tcp(), marked(), saveMark()),
				join(tcp(), ofMarkedConnection(), restoreMark()),
			},
		})
	} else {
		t.chains = append(t.chains, chain{
			name: "inbound", kind: nftables.ChainTypeNAT,
			hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityNATDest,
			rules: slices.Concat([]rule{join(in("lo"), pass())}, c.inbound(t, redirect(c.InboundPort))),
		})
	}
	t.chains = append(t.chains, chain{
		name: "outbound", kind: nftables.ChainTypeNAT,
		hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityNATDest,
		rules: slices.Concat([]rule{join(out("lo"), pass()), join(c.proxy(), pass())}, c.outbound(t, redirect(c.OutboundPort))),
	})
	return t
}

// inbound and outbound do capture to what they do not let pass.

func (c Capture) inbound(t *table, capture ...rule) []rule {
	if c.IncludeInbound.Limited {
		return t.atPorts(setIncludeInbound, c.IncludeInbound.To, capture...)
	}
	rules := t.atPorts(setExcludeInbound, c.ExcludeInbound, pass())
	for _, r := range capture {
		rules = append(rules, join(tcp(), r))
	}
	return rules
}

func (c Capture) outbound(t *table, capture rule) []rule {
	rules := slices.Concat(
		t.atPorts(setExcludePorts, c.ExcludePorts, pass()),
		t.toRanges(setExcludeRanges, c.ExcludeRanges, pass()),
		t.atPorts(setIncludePorts, c.IncludePorts, capture))
	if c.IncludeRanges.Limited {
		return append(rules, t.toRanges(setIncludeRanges, c.IncludeRanges.To, join(tcp(), capture))...)
	}
	return append(rules, join(tcp(), capture))
}

// proxy matches what the proxy sends.
func (c Capture) proxy() rule {
	if c.Transparent {
		return group(c.ProxyGID)
	}
	return user(c.ProxyUID)
}
