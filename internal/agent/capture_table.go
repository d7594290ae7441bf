package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// captureTable is ours alone: Install replaces it as a whole and touches nothing
// beside it.
const captureTable = "garrison"

// Sets have the names of the flags that fill them, for those who list the rules.
const (
	setIncludeInbound = "include-inbound-ports"
	setExcludeInbound = "exclude-inbound-ports"
	setIncludePorts   = "include-outbound-ports"
	setExcludePorts   = "exclude-outbound-ports"
	setIncludeRanges  = "include-outbound-ranges"
	setExcludeRanges  = "exclude-outbound-ranges"
)

// family is a version of IP. Each has a table of its own, since a kernel may lack
// one of them.
type family struct {
	name        string // as nft has it
	nft         nftables.TableFamily
	socket      int // for sockets and routes
	bits        int // of an address
	address     nftables.SetDatatype
	destination uint32 // where the destination is in a packet
}

var (
	familyIPv4 = family{"ip", nftables.TableFamilyIPv4, unix.AF_INET, 32, nftables.TypeIPAddr, 16}
	familyIPv6 = family{"ip6", nftables.TableFamilyIPv6, unix.AF_INET6, 128, nftables.TypeIP6Addr, 24}
)

// hasIPv6 reports whether the kernel knows IPv6. Whether an address of it is set,
// now or later, does not matter.
func hasIPv6() (bool, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("IPv6 socket: %w", err)
	}
	return true, unix.Close(fd)
}

// table is all that is captured of one version of IP.
type table struct {
	family family
	sets   []set
	chains []chain
}

type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

// set is what the rules look up, sorted and without overlaps.
type set struct {
	name     string
	text     string
	key      nftables.SetDatatype
	interval bool
	elements []nftables.SetElement
}

func (t *table) String() string { return t.family.name + " " + captureTable }

// atPorts adds a set to the table, and returns the rules that do each of then to
// TCP to its ports: none where it has none.
func (t *table) atPorts(name string, ports []uint16, then ...rule) []rule {
	if len(ports) == 0 {
		return nil
	}
	t.sets = append(t.sets, portSet(name, ports))
	rules := make([]rule, len(then))
	for i, r := range then {
		rules[i] = join(toPortsOf(name), r)
	}
	return rules
}

// toRanges does the same for destinations, of which only those of the table's own
// version of IP count.
func (t *table) toRanges(name string, ranges []netip.Prefix, then rule) []rule {
	own := intervals(t.family, ranges)
	if len(own) == 0 {
		return nil
	}
	t.sets = append(t.sets, rangeSet(t.family, name, own))
	return []rule{join(toRangesOf(t.family, name), then)}
}

func portSet(name string, ports []uint16) set {
	s := set{name: name, key: nftables.TypeInetService}
	var words []string
	for _, port := range slices.Compact(slices.Sorted(slices.Values(ports))) {
		s.elements = append(s.elements, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, port)})
		words = append(words, fmt.Sprint(port))
	}
	s.text = strings.Join(words, ", ")
	return s
}

func rangeSet(f family, name string, own []interval) set {
	s := set{name: name, key: f.address, interval: true}
	var words []string
	for _, i := range own {
		s.elements = append(s.elements, nftables.SetElement{Key: i.first.AsSlice()})
		if end := i.last.Next(); end.IsValid() { // or it reaches to the end of all addresses
			s.elements = append(s.elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
		words = append(words, i.String())
	}
	s.text = strings.Join(words, ", ")
	return s
}

// interval is the addresses from the first to the last.
type interval struct{ first, last netip.Addr }

func (i interval) String() string {
	if i.first == i.last {
		return i.first.String()
	}
	return i.first.String() + "-" + i.last.String()
}

// intervals are the addresses of the family in the ranges: sorted, and neither
// overlapping nor touching, which the kernel would not take.
func intervals(f family, ranges []netip.Prefix) []interval {
	var all []interval
	for _, r := range ranges {
		if r.Addr().BitLen() == f.bits {
			all = append(all, interval{r.Masked().Addr(), lastOf(r)})
		}
	}
	slices.SortFunc(all, func(a, b interval) int { return a.first.Compare(b.first) })
	var merged []interval
	for _, i := range all {
		if n := len(merged); n > 0 {
			end := &merged[n-1].last
			if next := end.Next(); !next.IsValid() || i.first.Compare(next) <= 0 {
				if end.Less(i.last) {
					*end = i.last
				}
				continue
			}
		}
		merged = append(merged, i)
	}
	return merged
}

func lastOf(r netip.Prefix) netip.Addr {
	address := r.Addr().AsSlice()
	for bit := r.Bits(); bit < len(address)*8; bit++ {
		address[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(address) // of a length that an address had
	return last
}

// add puts the table into conn's transaction, in place of one that is there.
func (t *table) add(conn *nftables.Conn) error {
	nft := t.nft()
	conn.AddTable(nft) // deleting what is not there would fail the transaction
	conn.DelTable(nft)
	conn.AddTable(nft)
	for _, s := range t.sets {
		if err := conn.AddSet(s.in(nft), s.elements); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	for _, ch := range t.chains {
		added := conn.AddChain(ch.in(nft))
		for _, r := range ch.rules {
			conn.AddRule(&nftables.Rule{Table: nft, Chain: added, Exprs: r.exprs})
		}
	}
	return nil
}

func (t *table) nft() *nftables.Table {
	return &nftables.Table{Name: captureTable, Family: t.family.nft}
}

func (c chain) in(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Name: c.name, Table: t, Type: c.kind, Hooknum: c.hook, Priority: c.priority}
}

func (s set) in(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Name: s.name, Table: t, KeyType: s.key, Interval: s.interval, Constant: true}
}
