package host

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/node"
)

func TestParseCmdline(t *testing.T) {
	join := func(args ...string) string { return strings.Join(args, "\x00") + "\x00" }
	want := Node{N: 2, Config: "/x/node.json"}
	if got, ok := parseCmdline([]byte(join(node.Marker, "demo", "2", "/x/node.json")), "demo"); !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, other := range []string{
		"",
		join(node.Marker),
		join(node.Marker, "demo2", "2", "/x/node.json"), // another cluster
		join(node.Marker, "demo", "x", "/x/node.json"),
		join(node.Marker, "demo", "0", "/x/node.json"),
		join(node.Marker, "demo", "2", "/x/node.json", "more"),
		join("/bin/"+node.Marker, "demo", "2", "/x/node.json"),
		join("grep", node.Marker, "demo", "2"),
	} {
		if got, ok := parseCmdline([]byte(other), "demo"); ok {
			t.Errorf("%q is taken for %+v", other, got)
		}
	}
}

func TestFirstOfNamespace(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tx\nNSpid:\t4711\t1\nNSpgid:\t1\t1\n": true,
		"NSpid:\t4711\t12\t1\n":                      true,
		"NSpid:\t1\n":                                false, // of the reader's own
		"NSpid:\t4711\t12\n":                         false,
		"Name:\tNSpid: 1 1\n":                        false,
		"":                                           false,
	} {
		if got := firstOfNamespace(status); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	tail := " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 98765 20 21"
	for _, name := range []string{"x", ") S 1 1", "a (b) c", ""} {
		start, state, ok := parseStat("4711 (" + name + ") S" + tail)
		if start != 98765 || state != "S" || !ok {
			t.Errorf("name %q: %d, %q, %v", name, start, state, ok)
		}
	}
	for _, bad := range []string{"", "4711 (x", "4711 (x) S 1 2", "4711 (x) S" + strings.Replace(tail, "98765", "-", 1)} {
		if _, _, ok := parseStat(bad); ok {
			t.Errorf("%q is taken for a stat file", bad)
		}
	}
}

// A process that carries the marker but is not the first of a namespace, like
// this one if it did, is never a node. So the test's own is not.
func TestLookupRefusesStrangers(t *testing.T) {
	if n, ok := lookup(os.Getpid(), "demo"); ok {
		t.Errorf("this process is taken for %+v", n)
	}
	if n, ok := lookup(1, "demo"); ok {
		t.Errorf("process 1 is taken for %+v", n)
	}
}

// A pid that has been given to another process since is left alone.
func TestKillLeavesAReusedPidAlone(t *testing.T) {
	self := Node{PID: os.Getpid(), Start: 1, N: 1, Config: "/x"}
	if err := kill(t.Context(), "demo", self); err != nil {
		t.Error(err)
	}
	// We are still here to say so.
}

func TestElsewhere(t *testing.T) {
	r := Remnant{Nodes: []Node{{Config: "/copy/build/demo/state/node1/node.json"}}}
	if got := r.Elsewhere("/copy/build/demo"); got != "" {
		t.Errorf("ours is taken for %s", got)
	}
	if got := r.Elsewhere("/copy/build/dem"); got == "" {
		t.Error("another's is taken for ours")
	}
}

func TestMountsBelow(t *testing.T) {
	const mountinfo = `1 0 8:1 / / rw - ext4 /dev/a rw
2 1 0:5 / /w/build/demo/state rw shared:1 - tmpfs t rw
3 2 0:5 / /w/build/demo/state/with\040space rw - tmpfs t rw
4 1 0:5 / /w/build/demo2/state rw - tmpfs t rw
`
	want := []string{"/w/build/demo/state", "/w/build/demo/state/with space"}
	if diff := cmp.Diff(want, mountsBelow(mountinfo, "/w/build/demo")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
