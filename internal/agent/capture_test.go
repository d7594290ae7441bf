package agent

import (
	"bytes"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
)

func testCapture() Capture {
	return Capture{ProxyUID: 1337, ProxyGID: 1337, InboundPort: 15006, OutboundPort: 15001, ExcludeInbound: []uint16{15020, 15021}}
}

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// everySetting has something in every list.
func everySetting() Capture {
	c := testCapture()
	c.ExcludePorts = []uint16{80, 53, 80}
	c.IncludePorts = []uint16{3306}
	c.ExcludeRanges = prefixes("10.1.0.0/16", "10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "192.168.0.7/31")
	c.IncludeRanges = Selection[netip.Prefix]{Limited: true, To: prefixes("0.0.0.0/0", "2001:db8::/32", "2001:db9::/32")}
	return c
}

// nft is the table in the language of the program of that name.
func (t *table) describe() string {
	var text strings.Builder
	text.WriteString("table " + t.String() + " {\n")
	for _, s := range t.sets {
		kind := map[nftables.SetDatatype]string{
			nftables.TypeInetService: "inet_service", nftables.TypeIPAddr: "ipv4_addr", nftables.TypeIP6Addr: "ipv6_addr",
		}[s.key]
		flags := "constant"
		if s.interval {
			flags += ", interval"
		}
		text.WriteString("\tset " + s.name + " { type " + kind + "; flags " + flags + "; elements = { " + s.text + " } }\n")
	}
	for _, ch := range t.chains {
		hook := map[nftables.ChainHook]string{*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookOutput: "output"}[*ch.hook]
		text.WriteString("\tchain " + ch.name + " {\n\t\ttype " + string(ch.kind) + " hook " + hook +
			" priority " + strconv.Itoa(int(*ch.priority)) + "\n")
		for _, r := range ch.rules {
			text.WriteString("\t\t" + r.text + "\n")
		}
		text.WriteString("\t}\n")
	}
	text.WriteString("}\n")
	return text.String()
}

func TestCaptureRules(t *testing.T) {
	limited, transparent, none := everySetting(), everySetting(), testCapture()
	limited.IncludeInbound = Selection[uint16]{Limited: true, To: []uint16{8080, 9090}}
	transparent.Transparent = true
	none.IncludeInbound.Limited, none.IncludeRanges.Limited = true, true
	for file, c := range map[string]Capture{
		"defaults": testCapture(), "every": everySetting(), "limited": limited, "transparent": transparent, "none": none,
	} {
		expectGolden(t, "capture-"+file+".nft", c.table(familyIPv4).describe()+c.table(familyIPv6).describe())
	}
}

// TestCaptureTextIsWhatIsSent lets nft read what people read, and finds in the
// kernel what the agent would have put there.
func TestCaptureTextIsWhatIsSent(t *testing.T) {
	nft := needTool(t, "nft")
	limited, transparent := everySetting(), everySetting()
	limited.IncludeInbound = Selection[uint16]{Limited: true, To: []uint16{8080}}
	transparent.Transparent = true
	for name, c := range map[string]Capture{"every": everySetting(), "limited": limited, "transparent": transparent} {
		t.Run(name, func(t *testing.T) {
			newNamespace(t).do(func() error {
				for _, f := range []family{familyIPv4, familyIPv6} {
					cmd := exec.Command(nft, "-f", "-")
					cmd.Stdin = strings.NewReader(c.table(f).describe())
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					conn, err := nftables.New()
					if err != nil {
						return err
					}
					table := c.table(f)
					for i, s := range table.sets {
						if s.interval && !bytes.Equal(s.elements[0].Key, make([]byte, s.key.Bytes)) {
							// What is no range from the first address on, for nft ends there.
							nothing := nftables.SetElement{Key: make([]byte, s.key.Bytes), IntervalEnd: true}
							table.sets[i].elements = slices.Insert(s.elements, 0, nothing)
						}
					}
					if err := table.verify(conn); err != nil {
						t.Errorf("%s: %v", f.name, err)
					}
				}
				return nil
			})
		})
	}
}

func TestCaptureCheck(t *testing.T) {
	transparent := func(c *Capture) { c.Transparent = true }
	for _, c := range []struct {
		want  string // "" where nothing is wrong
		spoil func(*Capture)
	}{
		{"", func(*Capture) {}},
		{"", transparent},
		{"", func(c *Capture) { *c = everySetting() }},
		{"", func(c *Capture) { c.ProxyGID = 0 }},
		{"", func(c *Capture) { c.ProxyUID, c.Transparent = 0, true }},
		{"-proxy-uid: 0", func(c *Capture) { c.ProxyUID = 0 }},
		{"-proxy-gid: 0", func(c *Capture) { c.ProxyGID, c.Transparent = 0, true }},
		{"-inbound-port: must not be 0", func(c *Capture) { c.InboundPort = 0 }},
		{"-outbound-port: must not be 0", func(c *Capture) { c.OutboundPort = 0 }},
		{"-outbound-port: 15001 is the inbound port", func(c *Capture) { c.InboundPort = 15001 }},
		{"-exclude-inbound-ports: 15006", func(c *Capture) { c.ExcludeInbound = []uint16{15006} }},
		{"-exclude-inbound-ports: 0", func(c *Capture) { c.ExcludeInbound = []uint16{0} }},
		{"-include-inbound-ports: 0", func(c *Capture) { c.IncludeInbound = Selection[uint16]{true, []uint16{8080, 0}} }},
		{"-include-inbound-ports: 15001", func(c *Capture) { c.IncludeInbound = Selection[uint16]{true, []uint16{15001}} }},
		{"-include-inbound-ports: everything, and", func(c *Capture) { c.IncludeInbound.To = []uint16{80} }},
		{"", func(c *Capture) { c.ExcludePorts = []uint16{15001, 15006} }}, // of other pods
		{"-exclude-outbound-ports: 0", func(c *Capture) { c.ExcludePorts = []uint16{0} }},
		{"-include-outbound-ports: 0", func(c *Capture) { c.IncludePorts = []uint16{0} }},
		{"-include-outbound-ranges: everything, and", func(c *Capture) { c.IncludeRanges.To = prefixes("10.0.0.0/8") }},
		{"-include-outbound-ranges: 127.0.0.0/8: loopback", func(c *Capture) { c.IncludeRanges = Selection[netip.Prefix]{true, prefixes("127.0.0.0/8")} }},
		{"-include-outbound-ranges: ::1/128: loopback", func(c *Capture) { c.IncludeRanges = Selection[netip.Prefix]{true, prefixes("::1/128")} }},
		{"", func(c *Capture) { c.ExcludeRanges = prefixes("127.0.0.0/8") }},
		{"-exclude-outbound-ranges: ::ffff:10.0.0.0/104: an IPv4 range", func(c *Capture) { c.ExcludeRanges = prefixes("::ffff:10.0.0.0/104") }},
		{"-exclude-outbound-ranges: not a range", func(c *Capture) { c.ExcludeRanges = make([]netip.Prefix, 1) }},
		{"", func(c *Capture) { c.ExcludePorts = slices.Repeat([]uint16{1}, 510) }}, // with the two of exclude-inbound-ports
		{"513 included and excluded ports and ranges: at most 512", func(c *Capture) {
			c.ExcludePorts, c.ExcludeRanges = slices.Repeat([]uint16{1}, 510), prefixes("10.0.0.0/8")
		}},
	} {
		spoilt := testCapture()
		c.spoil(&spoilt)
		err := spoilt.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", spoilt, err, c.want)
		}
		if c.want == "" {
			continue
		}
		if err := spoilt.Install(t.Context(), discardLog()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: installing: %v", spoilt, err)
		}
	}
	several := testCapture()
	several.InboundPort, several.IncludePorts = 0, []uint16{0}
	if err := several.Check(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two mistakes: %v", err)
	}
}

// FuzzIntervals checks the sets against the ranges that they are made of: the same
// addresses, in order, with gaps between.
func FuzzIntervals(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8 10.1.0.0/16", "10.0.0.0/9 10.128.0.0/9", "0.0.0.0/0 ::/0", "::/1 8000::/1", "255.255.255.255/32 255.255.255.254/32", "fd00::/8 10.0.0.1/32"} {
		f.Add(seed, "10.1.2.3")
	}
	f.Fuzz(func(t *testing.T, list, probe string) {
		var ranges []netip.Prefix
		for word := range strings.FieldsSeq(list) {
			if r, err := netip.ParsePrefix(word); err == nil && !r.Addr().Is4In6() {
				ranges = append(ranges, r)
			}
		}
		at := []netip.Addr{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("::")}
		if address, err := netip.ParseAddr(probe); err == nil {
			at = append(at, address.WithZone(""))
		}
		for _, r := range ranges { // where they begin and end
			at = append(at, r.Addr(), r.Masked().Addr().Prev(), lastOf(r), lastOf(r).Next())
		}
		for _, f := range []family{familyIPv4, familyIPv6} {
			made := intervals(f, ranges)
			for i, v := range made {
				if v.last.Less(v.first) || i > 0 && made[i-1].last.Next().Compare(v.first) >= 0 {
					t.Errorf("%s: out of order, overlapping or touching: %v", list, made)
				}
			}
			for _, address := range at {
				if address.BitLen() != f.bits || address.Is4In6() {
					continue
				}
				want := slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(address) })
				if got := slices.ContainsFunc(made, func(v interval) bool {
					return v.first.Compare(address) <= 0 && address.Compare(v.last) <= 0
				}); got != want {
					t.Errorf("%s in %s: %v by %v", address, list, got, made)
				}
			}
		}
	})
}
