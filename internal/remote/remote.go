// Package remote tells whose address is whose, for limits that strangers must not get
// around by taking another.
package remote

import "net/netip"

// Network returns all addresses that count as the one's: itself alone of IPv4, and of IPv6
// its /64, as whoever has one address of that has them all. Of no address it is the zero
// prefix.
func Network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}
