package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestKubeletMinor(t *testing.T) {
	for kubelet, want := range map[string]int{
		"v1.33.1": 33, "v1.33.1-eks-abc": 33, "v1.32.0+k3s1": 32, "1.33": 33, "v1.33+": 33, "v1.9.11": 9,
		"": 0, "v1": 0, "v1.": 0, "v1.x": 0, "v2.33.0": 0, "v11.33.0": 0, "unknown": 0, "v1.-3": 0, "v1.99999999999999999999": 0,
	} {
		if got := kubeletMinor(kubelet); got != want {
			t.Errorf("%q: %d, want %d", kubelet, got, want)
		}
	}
}

func node(name, kubelet string) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"pool": name},
			Annotations:   map[string]string{"a": "b"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24", Taints: []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}},
	}
	n.Status.NodeInfo.KubeletVersion = kubelet
	n.Status.Images = []corev1.ContainerImage{{Names: []string{"large"}}}
	return n
}

// Whatever nodes there are, the view answers as going through all of them would.
func TestNodeView(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var objects []any
		for i := range r.IntN(20) {
			objects = append(objects, node(fmt.Sprint("n", r.IntN(1000), "-", i), fmt.Sprintf("v1.%d.0", 30+r.IntN(5))))
		}
		view := newNodeView(objects)
		for minor := 28; minor < 38; minor++ {
			var want []mesh.Node
			for _, obj := range objects {
				if n := meshNode(obj.(*corev1.Node)); n.Minor < minor {
					want = append(want, n)
				}
			}
			slices.SortFunc(want, func(a, b mesh.Node) int { return strings.Compare(a.Name, b.Name) })
			if diff := cmp.Diff(want, view.older(minor)); diff != "" {
				t.Fatalf("older than 1.%d: %s", minor, diff)
			}
		}
	}
}

func TestTrimNode(t *testing.T) {
	full := node("n", "v1.33.0")
	want := meshNode(full)
	trimmed, err := trimNode(full.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	got := trimmed.(*corev1.Node)
	if diff := cmp.Diff(want, meshNode(got)); diff != "" {
		t.Error(diff)
	}
	if got.Annotations != nil || got.ManagedFields != nil || got.Status.Images != nil || got.Spec.PodCIDR != "" {
		t.Errorf("kept more than it needs: %v", got)
	}
	for what, change := range map[string]func(*corev1.Node){
		"label":   func(n *corev1.Node) { n.Labels["pool"] = "other" },
		"taint":   func(n *corev1.Node) { n.Spec.Taints = nil },
		"version": func(n *corev1.Node) { n.Status.NodeInfo.KubeletVersion = "v1.34.0" },
	} {
		changed := got.DeepCopy()
		change(changed)
		if sameNode(got, changed) {
			t.Errorf("a new %s is no news", what)
		}
	}
	beat := got.DeepCopy()
	beat.ResourceVersion = "2"
	if !sameNode(got, beat) {
		t.Error("a heartbeat is news")
	}
}

func testNodes(t *testing.T, l lab) {
	n := l.as(t, allow("", "nodes", "list watch")).WatchNodes(logger(t))
	if n.Ready() == nil || n.Older(99) != nil {
		t.Error("ready before it knows them")
	}
	run(t, n.Run)
	within(t, n.Ready)
	if old := n.Older(99); old != nil {
		t.Errorf("without nodes: %v", old)
	}
	nodes := l.admin.Client.CoreV1().Nodes()
	for name, kubelet := range map[string]string{"new": "v1.33.1", "old": "v1.32.4-eks-1", "odd": "dev"} {
		if _, err := nodes.Create(t.Context(), node(name, kubelet), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	older := func(minor int, want ...string) {
		t.Helper()
		within(t, func() error {
			var got []string
			for _, node := range n.Older(minor) {
				got = append(got, node.Name)
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("older than %d: %q, want %q", minor, got, want)
			}
			return nil
		})
	}
	older(33, "odd", "old")
	older(32, "odd")
	older(34, "new", "odd", "old")
	got, known := n.Get("old")
	if want := (mesh.Node{
		Name: "old", Minor: 32, Labels: map[string]string{"pool": "old"},
		Taints: []mesh.Taint{{Key: "k", Value: "v", Effect: "NoSchedule"}},
	}); !known || !cmp.Equal(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Taints" }, cmp.Comparer(containsTaints))) {
		t.Errorf("%+v", got)
	}
	if _, known := n.Get("absent"); known {
		t.Error("knows a node that does not exist")
	}
	// An upgrade, then one less.
	live, err := nodes.Get(t.Context(), "old", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	live.Status.NodeInfo.KubeletVersion = "v1.33.0"
	if _, err := nodes.UpdateStatus(t.Context(), live, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	older(33, "odd")
	if err := nodes.Delete(t.Context(), "odd", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	older(33)
	if err := errors.Join(nodes.Delete(t.Context(), "old", metav1.DeleteOptions{}), nodes.Delete(t.Context(), "new", metav1.DeleteOptions{})); err != nil {
		t.Error(err)
	}
}

// containsTaints: an API server may add taints of its own.
func containsTaints(a, b []mesh.Taint) bool {
	few, many := a, b
	if len(few) > len(many) {
		few, many = many, few
	}
	return !slices.ContainsFunc(few, func(t mesh.Taint) bool { return !slices.Contains(many, t) })
}
