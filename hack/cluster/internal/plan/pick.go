package plan

import (
	"fmt"
	"hash/fnv"
	"net/netip"
)

// Pick chooses the /16 of a cluster: the first one that overlaps nothing taken,
// in an order that depends on the name alone. So a cluster has the same
// addresses each time, on every machine where nobody else uses them, and two
// clusters, the first of which is among taken, differ.
func Pick(name string, taken []netip.Prefix) (netip.Prefix, error) {
	nets := candidates()
	h := fnv.New32a()
	h.Write([]byte(name))
	start := int(h.Sum32() % inTen) // the other ranges are only for hosts that use all of 10/8
	for i := range nets {
		k := i
		if i < inTen {
			k = (start + i) % inTen
		}
		if !overlaps(nets[k], taken) {
			return nets[k], nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no free /16 for cluster %q: all %d that the lab knows overlap a route of this host", name, len(nets))
}

// inTen is how many candidates lie in 10.0.0.0/8.
const inTen = 40

func candidates() []netip.Prefix {
	var nets []netip.Prefix
	add := func(a, b byte) { nets = append(nets, netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, 0, 0}), 16)) }
	for i := range byte(inTen) {
		add(10, 200+i)
	}
	for b := byte(20); b < 32; b++ {
		add(172, b)
	}
	add(198, 18)
	add(198, 19)
	return nets
}

func overlaps(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if t.Bits() > 0 && t.Overlaps(p) { // a default route takes nothing
			return true
		}
	}
	return false
}
