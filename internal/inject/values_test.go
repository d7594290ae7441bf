package inject

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func TestLists(t *testing.T) {
	for text, want := range map[string]list{
		"": "", " ": "", "80": "80", " 80 , 443,80": "80,443", "080": "80",
	} {
		if got, err := parsePorts(text, false); err != nil || got != want {
			t.Errorf("ports %q: %q, %v; want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]list{
		"*": "*", "10.1.2.3/8": "10.0.0.0/8", "10.0.0.0/8,fd00::1/8": "10.0.0.0/8,fd00::/8", "0.0.0.0/0": "0.0.0.0/0",
	} {
		if got, err := parseRanges(text, true); err != nil || got != want {
			t.Errorf("ranges %q: %q, %v; want %q", text, got, err, want)
		}
	}
	many := strings.Repeat("1,", maxListed)
	for i := range maxListed + 1 {
		many += strconv.Itoa(i+1) + ","
	}
	for _, text := range []string{"0", "65536", "-1", "80,", "a", "80 443", "1,*", strings.TrimSuffix(many, ",")} {
		if got, err := parsePorts(text, true); err == nil {
			t.Errorf("ports %.20q are taken for %.20q", text, got)
		}
	}
	for _, text := range []string{"10.0.0.1", "10.0.0.0/33", "::ffff:10.0.0.0/104", "fe80::1%eth0/64", "10.0.0.0/8/8"} {
		if got, err := parseRanges(text, true); err == nil {
			t.Errorf("ranges %q are taken for %q", text, got)
		}
	}
}

// FuzzLists: what is taken reads the same again, and as the agent will read it.
func FuzzLists(f *testing.F) {
	for _, text := range []string{"80,443", "10.0.0.0/8, fd00::/8", "*", "8080:/metrics,9090", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if ports, err := parsePorts(text, true); err == nil && ports != everything && ports != "" {
			for port := range strings.SplitSeq(string(ports), ",") {
				if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
					t.Errorf("%q of %q is no port", port, text)
				}
			}
			if again, err := parsePorts(string(ports), true); err != nil || again != ports {
				t.Errorf("%q reads as %q, %v", ports, again, err)
			}
		}
		if ranges, err := parseRanges(text, true); err == nil && ranges != everything && ranges != "" {
			for r := range strings.SplitSeq(string(ranges), ",") {
				if p, err := netip.ParsePrefix(r); err != nil || p != p.Masked() {
					t.Errorf("%q of %q is no range", r, text)
				}
			}
		}
		if targets, err := parseScrapeTargets(text); err == nil {
			if again, err := parseScrapeTargets(string(targets)); err != nil || again != targets {
				t.Errorf("%q reads as %q, %v", targets, again, err)
			}
		}
	})
}

// FuzzAnnotations: whatever stands in an annotation, its parser ends, and says what is
// wrong in few words.
func FuzzAnnotations(f *testing.F) {
	table := parsed()
	for i, a := range table {
		f.Add(uint8(i), a.Default)
		f.Add(uint8(i), `{"a":{"hostPath":{"path":"/"}}}`)
		f.Add(uint8(i), "concurrency: 4\n&a [*a, *a]")
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		a := table[int(which)%len(table)]
		o := builtin()
		if err := parsers[a.Name].set(&o, value); err != nil && len(err.Error()) > 1024 {
			t.Errorf("%s: %d bytes of complaint", a.Name, len(err.Error()))
		}
	})
}
