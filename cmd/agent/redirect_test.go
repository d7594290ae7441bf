package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/garrison-mesh/garrison/internal/agent"
)

func TestRedirectFlags(t *testing.T) {
	defaults := agent.Capture{
		ProxyUID: 1337, ProxyGID: 1337, InboundPort: 15006, OutboundPort: 15001, ExcludeInbound: []uint16{15020, 15021, 15090},
	}
	ranges := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	for args, change := range map[string]func(*agent.Capture){
		"": func(*agent.Capture) {},
		"--mode=REDIRECT --proxy-uid=1337 --proxy-gid=1337 --inbound-port=15006 --outbound-port=15001" +
			" --include-inbound-ports=* --exclude-inbound-ports=15020,15021,15090" +
			" --include-outbound-ranges=* --exclude-outbound-ranges= --include-outbound-ports= --exclude-outbound-ports=": func(*agent.Capture) {},
		"--mode=TPROXY --proxy-uid=0": func(c *agent.Capture) { c.Transparent, c.ProxyUID = true, 0 },
		"--proxy-uid=7 --proxy-gid=8": func(c *agent.Capture) { c.ProxyUID, c.ProxyGID = 7, 8 },
		"--exclude-inbound-ports=":    func(c *agent.Capture) { c.ExcludeInbound = nil },
		"--include-inbound-ports=":    func(c *agent.Capture) { c.IncludeInbound.Limited = true },
		"--include-inbound-ports=80,443": func(c *agent.Capture) {
			c.IncludeInbound = agent.Selection[uint16]{Limited: true, To: []uint16{80, 443}}
		},
		"--include-inbound-ports=80 --include-inbound-ports=*": func(*agent.Capture) {},
		"--include-outbound-ranges=":                           func(c *agent.Capture) { c.IncludeRanges.Limited = true },
		"--include-outbound-ranges=10.0.0.0/8,fd00::/8": func(c *agent.Capture) {
			c.IncludeRanges = agent.Selection[netip.Prefix]{Limited: true, To: ranges("10.0.0.0/8", "fd00::/8")}
		},
		"--exclude-outbound-ranges=10.1.2.3/16": func(c *agent.Capture) { c.ExcludeRanges = ranges("10.1.2.3/16") },
		"--include-outbound-ports=3306":         func(c *agent.Capture) { c.IncludePorts = []uint16{3306} },
		"--exclude-outbound-ports=53,3306":      func(c *agent.Capture) { c.ExcludePorts = []uint16{53, 3306} },
	} {
		want := defaults
		change(&want)
		got, err := parseRedirect(strings.Fields(args), io.Discard)
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%q: %s", args, diff)
		}
	}
}

func TestRedirectRefusals(t *testing.T) {
	for args, want := range map[string]string{
		"now":                                           `unknown argument "now"`,
		"--what":                                        "what",
		"--mode=NONE":                                   `-mode: "NONE"`,
		"--mode=tproxy":                                 `-mode: "tproxy"`,
		"--proxy-uid=0":                                 "-proxy-uid: 0",
		"--mode=TPROXY --proxy-gid=0":                   "-proxy-gid: 0",
		"--proxy-uid=4294967296":                        "flag -proxy-uid: not the number of a user",
		"--inbound-port=65536":                          "flag -inbound-port: not a port",
		"--inbound-port=15001":                          "-outbound-port: 15001",
		"--exclude-inbound-ports=1,,2":                  `flag -exclude-inbound-ports: "": not a port`,
		"--exclude-inbound-ports=*":                     `flag -exclude-inbound-ports: "*": not a port`,
		"--include-inbound-ports=80,*":                  `flag -include-inbound-ports: "*": not a port`,
		"--include-inbound-ports=15006":                 "-include-inbound-ports: 15006",
		"--exclude-outbound-ports=*":                    `flag -exclude-outbound-ports: "*": not a port`,
		"--include-outbound-ports=*":                    `flag -include-outbound-ports: "*": not a port`,
		"--include-outbound-ports=0":                    `flag -include-outbound-ports: "0": not a port`,
		"--exclude-outbound-ranges=*":                   `flag -exclude-outbound-ranges: "*": not a range`,
		"--exclude-outbound-ranges=10.0.0.1":            `flag -exclude-outbound-ranges: "10.0.0.1": not a range`,
		"--exclude-outbound-ranges=fe80::%eth0/64":      "not a range",
		"--include-outbound-ranges=10.0.0.0/33":         `"10.0.0.0/33": not a range`,
		"--include-outbound-ranges=*,10.0.0.0/8":        `"*": not a range`,
		"--include-outbound-ranges=::ffff:10.0.0.0/104": "-include-outbound-ranges: ::ffff:10.0.0.0/104",
		"--exclude-outbound-ports=" + manyPorts(513):    "at most 512",
		"--include-outbound-ranges=127.0.0.1/32,::/0":   "loopback is never captured",
	} {
		err := run(t.Context(), append([]string{"redirect"}, strings.Fields(args)...), nil, io.Discard)
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("agent redirect %.80s: %v, want a usage error with %q", args, err, want)
		}
	}
}

func manyPorts(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(i + 1)
	}
	return strings.Join(all, ",")
}

// FuzzRedirectLists: a list that is taken prints as one that means the same, and
// means what each of its words means alone.
func FuzzRedirectLists(f *testing.F) {
	for _, seed := range []string{"", "*", "80", "80,443", "0", "080", "+80", "80,", "*,80", "65536", "10.0.0.0/8", "fd00::/8,10.1.2.3/32", "::ffff:1.2.3.4/100", "10.0.0.0/08", "1::%a/64"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ports := selection[uint16]{list: list[uint16]{parse: parsePort}}
		checkSelection(t, text, &ports)
		for _, p := range ports.values {
			if p == 0 {
				t.Errorf("%q: port 0", text)
			}
		}
		checkSelection(t, text, &selection[netip.Prefix]{list: list[netip.Prefix]{parse: parseRange}})
	})
}

func checkSelection[T comparable](t *testing.T, text string, s *selection[T]) {
	t.Helper()
	if err := s.Set(text); err != nil {
		return
	}
	again := selection[T]{list: list[T]{parse: s.parse}}
	if err := again.Set(s.String()); err != nil || again.limited != s.limited || !slices.Equal(again.values, s.values) {
		t.Errorf("%q: prints as %q, which is %v, %v", text, s, again.values, err)
	}
	if text == "*" || text == "" {
		if s.limited == (text == "*") || len(s.values) != 0 {
			t.Errorf("%q: limited %v to %v", text, s.limited, s.values)
		}
		return
	}
	words := strings.Split(text, ",")
	if len(words) != len(s.values) {
		t.Fatalf("%q: %d values", text, len(s.values))
	}
	for i, word := range words {
		if v, err := s.parse(word); err != nil || v != s.values[i] {
			t.Errorf("%q: %q is %v alone, %v in the list", text, word, v, s.values[i])
		}
	}
}
