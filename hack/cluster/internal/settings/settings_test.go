package settings

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

func node(t *testing.T) Node {
	t.Helper()
	c, err := plan.New("demo", netip.MustParsePrefix("10.203.0.0/16"), 2)
	if err != nil {
		t.Fatal(err)
	}
	return Node{
		Cluster: c, N: 2, PKI: "/state/pki", Dir: "/state/node2", Logs: "/logs",
		Parts: Parts{Kubernetes: "/parts/kubernetes", Containerd: "/parts/containerd", Runc: "/parts/runc", CNI: "/parts/cni"},
	}
}

// All that a node is told, in one file for a reviewer to read.
func TestGolden(t *testing.T) {
	n := node(t)
	files, err := n.Files()
	if err != nil {
		t.Fatal(err)
	}
	dns, err := CoreDNS(n.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := json.Marshal(APIServerOnly("/pki", "/data", 7, "ready"))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"coredns": dns, "apiserver-only": alone} {
		var indented bytes.Buffer
		if err := json.Indent(&indented, b, "", "  "); err != nil {
			t.Fatal(err)
		}
		files[name] = indented.Bytes()
	}
	for name, args := range map[string][]string{"kubelet": n.KubeletArgs(), "kube-proxy": n.KubeProxyArgs(), "containerd": n.ContainerdArgs()} {
		files["arguments of "+name] = []byte(strings.Join(args, "\n"))
	}
	var got bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&got, "-- %s --\n%s\n", name, bytes.TrimRight(files[name], "\n"))
	}
	golden := filepath.Join("testdata", "node2.txt")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What the programs of a node write, they write where the node may.
func TestNothingOutsideTheNodesFolders(t *testing.T) {
	n := node(t)
	files, err := n.Files()
	if err != nil {
		t.Fatal(err)
	}
	for path := range files {
		if !strings.HasPrefix(path, Run+"/") {
			t.Errorf("%s is not below %s", path, Run)
		}
	}
}
