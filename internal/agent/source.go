package agent

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// ProbeFrom is from where the operator wants the agent's port to be asked. The zero
// value is the node that the pod runs on.
type ProbeFrom struct {
	any    bool
	ranges []netip.Prefix
}

// ParseProbeFrom reads "node", "any", or CIDR ranges separated by commas.
func ParseProbeFrom(text string) (ProbeFrom, error) {
	switch text {
	case "node":
		return ProbeFrom{}, nil
	case "any":
		return ProbeFrom{any: true}, nil
	}
	var f ProbeFrom
	for word := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(word)
		if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96) // as callers are spelled
		}
		if err != nil {
			return ProbeFrom{}, fmt.Errorf("%q: neither node, any nor a CIDR range: %w", word, err)
		}
		f.ranges = append(f.ranges, p.Masked())
	}
	return f, nil
}

// surroundings are the addresses that the pod knows.
type surroundings struct {
	pod      netip.Addr
	node     []netip.Addr // may be none
	gateways []netip.Addr // the pod's default gateways
	behind   bool         // the node is further than the gateway, which so is a router of its own
}

// sources are the addresses that may ask.
type sources struct {
	ranges []netip.Prefix
	open   string // why everybody may; "": only ranges and the pod itself
}

// sources decides who may ask. The kubelet's address, as the pod sees it, is the one
// that the node's routes give it on the way to the pod: where pods hang on a bridge
// of the node, or on a link each that has an address, that is the pod's default
// gateway; where the node merely routes, its own address, unless a tunnel's comes
// before it, which no pod can know. Such networks give pods a link-local gateway, or
// none. Only the gateway of the pod's own family counts, since the kubelet asks at
// that address.
func (f ProbeFrom) sources(s surroundings) sources {
	switch {
	case f.any:
		return sources{open: "so set"}
	case len(f.ranges) > 0:
		return sources{ranges: append(single(s.pod), f.ranges...)}
	}
	known := false
	for _, g := range s.gateways {
		if g.Is4() != s.pod.Is4() {
			continue
		}
		if g.IsLinkLocalUnicast() {
			return sources{open: "gateway " + g.String() + " is link-local: the kubelet's address cannot be known"}
		}
		known = true
	}
	if !known {
		return sources{open: "no default gateway: the kubelet's address cannot be known"}
	}
	if s.behind {
		return sources{open: "the gateway is not the node: the kubelet's address cannot be known"}
	}
	return sources{ranges: single(append([]netip.Addr{s.pod}, append(s.node, s.gateways...)...)...)}
}

// single returns a range for each address that can be told apart on any link.
func single(addresses ...netip.Addr) []netip.Prefix {
	var ranges []netip.Prefix
	for _, a := range addresses {
		if a.IsValid() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
			ranges = append(ranges, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return ranges
}

// allow reports whether a connection from a may ask. Loopback may always: it is the
// pod itself, Envoy's readiness listener above all.
func (s sources) allow(a netip.Addr) bool {
	return s.open != "" || a.IsLoopback() || slices.ContainsFunc(s.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

// caller is the address that a request came from.
func caller(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // the server's own spelling; else nobody's address
	return from.Addr().Unmap().WithZone("")
}

// refusals logs who was refused a probe: an operator whose kubelet calls from an
// unexpected address must be able to see that, strangers must not fill the log.
type refusals struct {
	log *slog.Logger

	mu   sync.Mutex
	told map[netip.Addr]bool
}

const maxRefusals = 8

func (l *refusals) add(r *http.Request) {
	from := caller(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told[from] || len(l.told) >= maxRefusals {
		return
	}
	if l.told == nil {
		l.told = map[netip.Addr]bool{}
	}
	l.told[from] = true
	l.log.WarnContext(r.Context(), "probe refused", "from", from.String(), "path", r.URL.Path, "widen", "-probe-from")
}
