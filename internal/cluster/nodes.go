package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Nodes is the cluster's nodes as a watch shows them: name, labels, taints and the
// kubelet's version.
type Nodes struct {
	informer cache.SharedIndexInformer // Node
	view     atomic.Pointer[nodeView]  // nil until all are known
	log      *slog.Logger
}

// WatchNodes returns the nodes of the cluster; [Nodes.Run] has to run. A nil log is
// none.
func (a *API) WatchNodes(log *slog.Logger) *Nodes {
	return &Nodes{informer: coreinformers.NewNodeInformer(a.Client, 0, cache.Indexers{}), log: orDiscard(log)}
}

// Run watches until ctx ends. It is called once.
func (n *Nodes) Run(ctx context.Context) error {
	err := prepare(n.informer, trimNode, n.log)
	if err == nil {
		err = follow(ctx, n.informer, sameNode, func() error {
			n.view.Store(newNodeView(n.informer.GetStore().List()))
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("watch of nodes: %w", err)
	}
	return nil
}

// Ready reports why the nodes are not all known yet, for readiness.
func (n *Nodes) Ready() error {
	if n.view.Load() == nil {
		return errors.New("nodes not listed yet")
	}
	return nil
}

// Older returns the nodes whose kubelet is older than minor, 33 for 1.33, by name;
// one whose version cannot be read counts as old. As long as [Nodes.Ready] reports
// an error there are none. The result is shared and must not be changed.
func (n *Nodes) Older(minor int) []mesh.Node {
	if view := n.view.Load(); view != nil {
		return view.older(minor)
	}
	return nil
}

// Get returns a node, whose labels and taints must not be changed.
func (n *Nodes) Get(name string) (node mesh.Node, known bool) {
	if view := n.view.Load(); view != nil {
		if i, found := slices.BinarySearchFunc(view.all, name, func(n mesh.Node, name string) int { return strings.Compare(n.Name, name) }); found {
			return view.all[i], true
		}
	}
	return mesh.Node{}, false
}

// nodeView is made when nodes change, so that nobody who asks has to go through
// all of them.
type nodeView struct {
	all    []mesh.Node   // by name
	minors []int         // those that occur, ascending
	upTo   [][]mesh.Node // for each of minors: the nodes that are no newer
}

func newNodeView(objects []any) *nodeView {
	v := &nodeView{}
	for _, obj := range objects {
		if node, ok := obj.(*corev1.Node); ok {
			v.all = append(v.all, meshNode(node))
		}
	}
	slices.SortFunc(v.all, func(a, b mesh.Node) int { return strings.Compare(a.Name, b.Name) })
	for _, node := range v.all {
		v.minors = append(v.minors, node.Minor)
	}
	slices.Sort(v.minors)
	v.minors = slices.Compact(v.minors)
	for _, minor := range v.minors {
		v.upTo = append(v.upTo, slices.DeleteFunc(slices.Clone(v.all), func(n mesh.Node) bool { return n.Minor > minor }))
	}
	return v
}

func (v *nodeView) older(minor int) []mesh.Node {
	i, _ := slices.BinarySearch(v.minors, minor)
	if i == 0 {
		return nil
	}
	return v.upTo[i-1]
}

func meshNode(node *corev1.Node) mesh.Node {
	n := mesh.Node{Name: node.Name, Labels: node.Labels, Minor: kubeletMinor(node.Status.NodeInfo.KubeletVersion)}
	for _, taint := range node.Spec.Taints {
		n.Taints = append(n.Taints, mesh.Taint{Key: taint.Key, Value: taint.Value, Effect: string(taint.Effect)})
	}
	return n
}

// kubeletMinor returns 33 for v1.33.1-eks-abc, and 0 for what is no such version.
func kubeletMinor(kubelet string) int {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(kubelet, "v"), "1.")
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	minor, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return 0
	}
	return minor
}

// trimNode runs before a node enters the cache: most of a node is its images and
// its conditions.
func trimNode(obj any) (any, error) {
	if node, ok := obj.(*corev1.Node); ok {
		trimmed := corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, Labels: node.Labels},
			Spec:       corev1.NodeSpec{Taints: node.Spec.Taints},
		}
		trimmed.Status.NodeInfo.KubeletVersion = node.Status.NodeInfo.KubeletVersion
		*node = trimmed
	}
	return obj, nil
}

// sameNode compares two trimmed nodes: kubelets write status all the time.
func sameNode(old, now any) bool {
	a, ok := old.(*corev1.Node)
	b, ok2 := now.(*corev1.Node)
	return ok && ok2 && a.Status.NodeInfo.KubeletVersion == b.Status.NodeInfo.KubeletVersion &&
		apiequality.Semantic.DeepEqual(a.Labels, b.Labels) && apiequality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints)
}
