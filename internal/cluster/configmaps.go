package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// ConfigMapKeeper says which namespaces have the ConfigMap mesh.RootConfigMap, or
// another one, and what is in it.
type ConfigMapKeeper struct {
	Name      string // of the ConfigMap; "": mesh.RootConfigMap
	Namespace string // "": in all of them

	// Desired returns what the ConfigMap of a namespace should hold, or nil where
	// none belongs; one that is there all the same is left alone. Only the keys of
	// its data, and its labels and annotations, are Garrison's. It is called by
	// several workers at a time and must not change the namespace.
	Desired func(*corev1.Namespace) *corev1.ConfigMap
	Again   <-chan struct{} // if not nil, a word on it has Desired asked again about every namespace

	Resync  time.Duration         // Desired is asked again at least this often; 0: 10 min
	Log     *slog.Logger          // nil: no log
	Metrics prometheus.Registerer // nil: no metrics
}

// KeepConfigMaps returns a part for the leader: each namespace has the ConfigMap
// that Desired says, by server-side apply of Garrison's own keys, which are put
// back whenever somebody changes them, later and later where that happens all the
// time. A ConfigMap that held what it should, and does so no longer while Desired says
// the same, was tampered with: a Warning Event on it, the log and a metric say so.
// Terminating namespaces are passed over.
//
// A ConfigMap that somebody has made immutable with other content cannot be put
// right; that is logged again and again until it is deleted.
func (a *API) KeepConfigMaps(k ConfigMapKeeper) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := newConfigMapLoop(a, k)
		if err != nil {
			return err
		}
		return c.run(ctx)
	}
}

type configMapLoop struct {
	*loop
	ConfigMapKeeper
	api        *API
	namespaces cache.Indexer // Namespace
	configMaps cache.Indexer // ConfigMap of that name
	changes    *prometheus.CounterVec
	tells      flowcontrol.RateLimiter // of Events

	mu    sync.Mutex
	wrote map[key]string // digest of what each last had to hold, and held
}

func newConfigMapLoop(a *API, k ConfigMapKeeper) (*configMapLoop, error) {
	if k.Resync <= 0 {
		k.Resync = defaultResync
	}
	if k.Name == "" {
		k.Name = mesh.RootConfigMap
	}
	c := &configMapLoop{
		loop: newLoop(workers, k.Log), ConfigMapKeeper: k, api: a,
		tells: flowcontrol.NewTokenBucketRateLimiter(tellQPS, tellBurst), wrote: map[key]string{},
	}
	c.sync = c.keep
	var err error
	if c.changes, err = registered(k.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "citadel_root_config_map_changes_total",
		Help: "ConfigMaps with the trust bundle that were created or repaired, and of these the ones that somebody had tampered with.",
	}, []string{"change"})); err != nil {
		return nil, err
	}
	tweak := func(*metav1.ListOptions) {}
	if k.Namespace != "" {
		tweak = only(k.Namespace)
	}
	namespaces := coreinformers.NewFilteredNamespaceInformer(a.Client, 0, cache.Indexers{}, tweak)
	configMaps := coreinformers.NewFilteredConfigMapInformer(a.Client, k.Namespace, 0, cache.Indexers{}, only(k.Name))
	c.namespaces, c.configMaps = namespaces.GetIndexer(), configMaps.GetIndexer()
	c.heed(k.Again, c.namespaces)
	return c, errors.Join(
		c.watch(namespaces, func(obj any) {
			if ns, ok := obj.(*corev1.Namespace); ok {
				c.queue.Add(key{Name: ns.Name})
			}
		}),
		c.watch(configMaps, func(obj any) {
			if configMap, ok := obj.(*corev1.ConfigMap); ok {
				c.queue.Add(key{Name: configMap.Namespace})
			}
		}),
	)
}

// keep brings one namespace's ConfigMap to what it should be.
func (c *configMapLoop) keep(ctx context.Context, k key) (again time.Duration, err error) {
	ns, err := find[corev1.Namespace](c.namespaces, k)
	if err != nil || ns == nil || terminating(ns) {
		c.held(k, "") // whatever comes next is another namespace
		return 0, err
	}
	again = wait.Jitter(c.Resync*4/5, 0.25)
	desired := c.Desired(ns)
	if desired == nil {
		return again, nil
	}
	found, err := find[corev1.ConfigMap](c.configMaps, key{Namespace: k.Name, Name: c.Name})
	if err != nil {
		return 0, err
	}
	want := digestOf(desired)
	if covers(found, desired) {
		c.held(k, want)
		return again, nil
	}
	if pause := c.pause(k); pause > 0 {
		return pause, nil
	}
	_, err = c.api.Client.CoreV1().ConfigMaps(k.Name).Apply(ctx,
		coreapply.ConfigMap(c.Name, k.Name).
			WithLabels(desired.Labels).
			WithAnnotations(desired.Annotations).
			WithData(desired.Data),
		metav1.ApplyOptions{FieldManager: mesh.CitadelFieldManager, Force: true})
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil // the namespace went meanwhile
	case err != nil:
		return 0, fmt.Errorf("config map %s: %w", c.Name, err)
	}
	c.repaired(k)
	if last := c.held(k, want); last == want && found != nil {
		c.tell(ctx, found)
	}
	did := repaired
	if found == nil {
		did = created
	}
	c.changes.WithLabelValues(string(did)).Inc()
	c.log.InfoContext(ctx, "kept config map", "namespace", k.Name, "name", c.Name, "change", string(did))
	return again, nil
}

// held takes down that a namespace's ConfigMap holds this, and returns what it held
// before.
func (c *configMapLoop) held(k key, want string) (last string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last = c.wrote[k]
	if c.wrote[k] = want; want == "" {
		delete(c.wrote, k)
	}
	return last
}

// tell says on a ConfigMap that it was put right, unless there are too many at a time.
func (c *configMapLoop) tell(ctx context.Context, found *corev1.ConfigMap) {
	c.changes.WithLabelValues("tampered").Inc()
	if !c.tells.TryAccept() {
		return
	}
	if err := c.api.warn(ctx, warning{
		name: "config-map-repaired." + string(found.UID),
		about: corev1.ObjectReference{
			APIVersion: "v1", Kind: "ConfigMap", Namespace: found.Namespace, Name: found.Name, UID: found.UID,
		},
		reason:  "RootsRepaired",
		message: "somebody changed the roots of the mesh in here; Citadel has put them back",
		by:      mesh.CitadelFieldManager,
	}); err != nil {
		c.log.WarnContext(ctx, "tampering not told", "namespace", found.Namespace, "err", err)
	}
}

// digestOf tells one desired content from another.
func digestOf(m *corev1.ConfigMap) string {
	h := sha256.New()
	for _, part := range []map[string]string{m.Data, m.Labels, m.Annotations} {
		for _, name := range slices.Sorted(maps.Keys(part)) {
			fmt.Fprintf(h, "%q=%q\n", name, part[name])
		}
		fmt.Fprintln(h)
	}
	return string(h.Sum(nil))
}

// covers reports whether found has all that desired asks for; it may have more.
func covers(found, desired *corev1.ConfigMap) bool {
	return found != nil &&
		holds(found.Data, desired.Data) &&
		holds(found.Labels, desired.Labels) &&
		holds(found.Annotations, desired.Annotations)
}

func holds(have, want map[string]string) bool {
	for name, value := range want {
		if got, ok := have[name]; !ok || got != value {
			return false
		}
	}
	return true
}
