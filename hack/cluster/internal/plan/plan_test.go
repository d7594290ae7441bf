package plan

import (
	"net/netip"
	"slices"
	"testing"
)

func TestAddresses(t *testing.T) {
	c, err := New("demo", netip.MustParsePrefix("10.203.0.0/16"), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct{ what, got, want string }{
		{"bridge", c.Bridge(), "gl-demo"},
		{"veth", c.Veth(2), "gl-demo.2"},
		{"node", c.Node(2), "node2"},
		{"cgroup", c.Cgroup(2), "/gl-demo/node2"},
		{"host", c.HostAddr().String(), "10.203.0.1/24"},
		{"node 1", c.NodeAddr(1).String(), "10.203.0.2/24"},
		{"node 2", c.NodeAddr(2).String(), "10.203.0.3/24"},
		{"pods", c.PodNet().String(), "10.203.16.0/20"},
		{"pods of node 1", c.NodePods(1).String(), "10.203.17.0/24"},
		{"pods of node 2", c.NodePods(2).String(), "10.203.18.0/24"},
		{"services", c.ServiceNet().String(), "10.203.128.0/17"},
		{"API server's service", c.APIService().String(), "10.203.128.1"},
		{"DNS", c.DNS().String(), "10.203.128.10"},
		{"mirror", c.Mirror(), "10.203.0.2:5000"},
		{"server", c.Server(), "https://10.203.0.2:6443"},
	} {
		if check.got != check.want {
			t.Errorf("%s: %s, want %s", check.what, check.got, check.want)
		}
	}
}

// Whatever the net, the ranges of a cluster lie in it and apart from each other.
func TestRangesAreApart(t *testing.T) {
	for _, net := range candidates() {
		c, err := New("x", net, MaxNodes)
		if err != nil {
			t.Fatal(err)
		}
		ranges := []netip.Prefix{c.HostAddr().Masked(), c.ServiceNet()}
		for n := 1; n <= MaxNodes; n++ {
			if !c.PodNet().Overlaps(c.NodePods(n)) || c.HostAddr().Masked() != c.NodeAddr(n).Masked() {
				t.Errorf("%v: node %d is outside: %v, %v", net, n, c.NodePods(n), c.NodeAddr(n))
			}
			ranges = append(ranges, c.NodePods(n))
		}
		for i, a := range ranges {
			if !net.Overlaps(a) || a.Bits() < net.Bits() {
				t.Errorf("%v is not in %v", a, net)
			}
			for _, b := range ranges[:i] {
				if a.Overlaps(b) {
					t.Errorf("%v and %v overlap", a, b)
				}
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := netip.MustParsePrefix("10.203.0.0/16")
	for _, c := range []struct {
		name  string
		net   netip.Prefix
		nodes int
	}{
		{"", good, 1},
		{"Upper", good, 1},
		{"9lives", good, 1},
		{"end-", good, 1},
		{"a/b", good, 1},
		{"elevenchars", good, 1}, // its interfaces would need 16 bytes
		{"ok", good, 0},
		{"ok", good, MaxNodes + 1},
		{"ok", netip.MustParsePrefix("10.203.0.0/24"), 1},
		{"ok", netip.MustParsePrefix("10.203.1.0/16"), 1},
		{"ok", netip.MustParsePrefix("fd00::/16"), 1},
		{"ok", netip.Prefix{}, 1},
	} {
		if p, err := New(c.name, c.net, c.nodes); err == nil {
			t.Errorf("New(%q, %v, %d) = %v, want an error", c.name, c.net, c.nodes, p)
		}
	}
	if c, err := New("tencharsok", good, 1); err != nil || len(c.Veth(1)) > 15 {
		t.Errorf("%v, interface %q", err, c.Veth(1))
	}
}

func TestIsLink(t *testing.T) {
	for link, want := range map[string]bool{
		"gl-a": true, "gl-a.1": true, "gl-a.4": true,
		"gl-a.5": false, "gl-ab": false, "gl-a-1": false, "gl-a.1.1": false, "gl-": false, "a": false,
	} {
		if got := IsLink("a", link); got != want {
			t.Errorf("IsLink(a, %s) = %v", link, got)
		}
	}
}

func TestPick(t *testing.T) {
	first, err := Pick("demo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := Pick("demo", nil); again != first {
		t.Errorf("%v, then %v", first, again)
	}
	// A default route takes nothing; a part of the range, or more than it, takes it.
	everything := netip.MustParsePrefix("0.0.0.0/0")
	if got, _ := Pick("demo", []netip.Prefix{everything}); got != first {
		t.Errorf("with a default route: %v, want %v", got, first)
	}
	part := netip.PrefixFrom(first.Addr().Next(), 32)
	if got, err := Pick("demo", []netip.Prefix{part}); err != nil || got == first {
		t.Errorf("%v is taken: picked %v, %v", part, got, err)
	}
	ten := netip.MustParsePrefix("10.0.0.0/8")
	if got, err := Pick("demo", []netip.Prefix{ten}); err != nil || got.Overlaps(ten) {
		t.Errorf("%v is taken: picked %v, %v", ten, got, err)
	}
	if got, err := Pick("demo", candidates()); err == nil {
		t.Errorf("all are taken: picked %v", got)
	}
}

// One after the other, as many clusters as there are ranges never meet.
func TestPickFillsUp(t *testing.T) {
	var taken []netip.Prefix
	for range candidates() {
		p, err := Pick("demo", taken)
		if err != nil {
			t.Fatalf("after %d: %v", len(taken), err)
		}
		if slices.ContainsFunc(taken, p.Overlaps) {
			t.Fatalf("%v was taken", p)
		}
		taken = append(taken, p)
	}
}
