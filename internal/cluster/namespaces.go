package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// A namespace that the watch does not know is asked about for at most this long,
// and so many of them in a second: the names come from whoever calls.
const (
	lookupTimeout = 2 * time.Second
	lookupQPS     = 10
	lookupBurst   = 20
)

// Namespaces is the cluster's namespaces as a watch shows them, without what
// injection does not read.
type Namespaces struct {
	informer cache.SharedIndexInformer // PartialObjectMetadata
	metadata metadata.Interface
	lookups  flowcontrol.RateLimiter
	changed  func()
	log      *slog.Logger
}

// WatchNamespaces returns the namespaces of the cluster; [Namespaces.Run] has to run,
// and calls changed when all are known, then whenever what they say has changed. A nil
// log is none.
func (a *API) WatchNamespaces(changed func(), log *slog.Logger) *Namespaces {
	return &Namespaces{
		informer: metadatainformer.NewFilteredMetadataInformer(a.metadata, namespaceResource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer(),
		metadata: a.metadata,
		lookups:  flowcontrol.NewTokenBucketRateLimiter(lookupQPS, lookupBurst),
		changed:  changed,
		log:      orDiscard(log),
	}
}

var namespaceResource = corev1.SchemeGroupVersion.WithResource("namespaces")

// Run watches until ctx ends. It is called once.
func (n *Namespaces) Run(ctx context.Context) error {
	if err := prepare(n.informer, trimNamespace, n.log); err != nil {
		return fmt.Errorf("watch of namespaces: %w", err)
	}
	if err := follow(ctx, n.informer, sameNamespace, func() error { n.changed(); return nil }); err != nil {
		return fmt.Errorf("watch of namespaces: %w", err)
	}
	return nil
}

// Ready reports why the namespaces are not all known yet, for readiness.
func (n *Namespaces) Ready() error {
	if !n.informer.HasSynced() {
		return errors.New("namespaces not listed yet")
	}
	return nil
}

// Get returns a namespace, whose labels and annotations must not be changed. One
// that the watch does not show, because it was made a moment ago, is asked for once,
// within 2 s; the error of one that does not exist satisfies apierrors.IsNotFound.
func (n *Namespaces) Get(ctx context.Context, name string) (mesh.Namespace, error) {
	if problems := validation.IsDNS1123Label(name); problems != nil {
		return mesh.Namespace{}, fmt.Errorf("namespace %q: %s", name, strings.Join(problems, "; "))
	}
	known, err := find[metav1.PartialObjectMetadata](n.informer.GetStore(), key{Name: name})
	if err == nil && known == nil {
		known, err = n.ask(ctx, name)
	}
	if err != nil {
		return mesh.Namespace{}, fmt.Errorf("namespace %s: %w", name, err)
	}
	return meshNamespace(known), nil
}

func (n *Namespaces) ask(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	if err := n.lookups.Wait(ctx); err != nil {
		return nil, fmt.Errorf("too many unknown namespaces at a time: %w", err)
	}
	live, err := n.metadata.Resource(namespaceResource).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	_, err = trimNamespace(live)
	return live, err
}

// List returns the namespaces that the watch shows, by name. Their labels and
// annotations must not be changed.
func (n *Namespaces) List() []mesh.Namespace {
	var all []mesh.Namespace
	for _, obj := range n.informer.GetStore().List() {
		if ns, ok := obj.(*metav1.PartialObjectMetadata); ok {
			all = append(all, meshNamespace(ns))
		}
	}
	slices.SortFunc(all, func(a, b mesh.Namespace) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func meshNamespace(ns *metav1.PartialObjectMetadata) mesh.Namespace {
	return mesh.Namespace{Name: ns.Name, Labels: ns.Labels, Annotations: ns.Annotations}
}

// trimNamespace runs before a namespace enters the cache.
func trimNamespace(obj any) (any, error) {
	if ns, ok := obj.(*metav1.PartialObjectMetadata); ok {
		ns.ObjectMeta = metav1.ObjectMeta{
			Name: ns.Name, UID: ns.UID, ResourceVersion: ns.ResourceVersion,
			Labels: ns.Labels, Annotations: annotationsOf(ns.Annotations, "istio.io", "garrison.io"),
		}
	}
	return obj, nil
}

// sameNamespace compares two trimmed namespaces.
func sameNamespace(old, now any) bool {
	a, ok := old.(*metav1.PartialObjectMetadata)
	b, ok2 := now.(*metav1.PartialObjectMetadata)
	return ok && ok2 && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations)
}

// annotationsOf returns the annotations of these domains and of those below them.
func annotationsOf(all map[string]string, domains ...string) map[string]string {
	var kept map[string]string
	for name, value := range all {
		prefix, _, _ := strings.Cut(name, "/")
		if slices.ContainsFunc(domains, func(d string) bool { return prefix == d || strings.HasSuffix(prefix, "."+d) }) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	return kept
}
