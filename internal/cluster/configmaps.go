package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// ConfigMapKeeper says which namespaces have the ConfigMap mesh.RootConfigMap and
// what is in it.
type ConfigMapKeeper struct {
	// Desired returns what the ConfigMap of a namespace should hold, or nil where
	// none belongs; one that is there all the same is left alone. Only the keys of
	// its data, and its labels and annotations, are Garrison's. It is called by
	// several workers at a time and must not change the namespace.
	Desired func(*corev1.Namespace) *corev1.ConfigMap

	Resync  time.Duration         // Desired is asked again at least this often; 0: 10 min
	Log     *slog.Logger          // nil: no log
	Metrics prometheus.Registerer // nil: no metrics
}

// KeepConfigMaps returns a part for the leader: each namespace has the ConfigMap
// that Desired says, by server-side apply of Garrison's own keys, which are put
// back whenever somebody changes them. Terminating namespaces are passed over.
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
}

func newConfigMapLoop(a *API, k ConfigMapKeeper) (*configMapLoop, error) {
	if k.Resync <= 0 {
		k.Resync = defaultResync
	}
	c := &configMapLoop{loop: newLoop(workers, k.Log), ConfigMapKeeper: k, api: a}
	c.sync = c.keep
	var err error
	if c.changes, err = registered(k.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "citadel_root_config_map_changes_total",
		Help: "ConfigMaps with the trust bundle that were created or repaired.",
	}, []string{"change"})); err != nil {
		return nil, err
	}
	namespaces := coreinformers.NewNamespaceInformer(a.Client, 0, cache.Indexers{})
	configMaps := coreinformers.NewFilteredConfigMapInformer(a.Client, metav1.NamespaceAll, 0, cache.Indexers{}, only(mesh.RootConfigMap))
	c.namespaces, c.configMaps = namespaces.GetIndexer(), configMaps.GetIndexer()
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
		return 0, err
	}
	again = wait.Jitter(c.Resync*4/5, 0.25)
	desired := c.Desired(ns)
	if desired == nil {
		return again, nil
	}
	found, err := find[corev1.ConfigMap](c.configMaps, key{Namespace: k.Name, Name: mesh.RootConfigMap})
	if err != nil || covers(found, desired) {
		return again, err
	}
	if pause := c.pause(k); pause > 0 {
		return pause, nil
	}
	_, err = c.api.Client.CoreV1().ConfigMaps(k.Name).Apply(ctx,
		coreapply.ConfigMap(mesh.RootConfigMap, k.Name).
			WithLabels(desired.Labels).
			WithAnnotations(desired.Annotations).
			WithData(desired.Data),
		metav1.ApplyOptions{FieldManager: mesh.CitadelFieldManager, Force: true})
	switch {
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return 0, nil // the namespace went meanwhile
	case err != nil:
		return 0, fmt.Errorf("config map %s: %w", mesh.RootConfigMap, err)
	}
	c.repaired(k)
	did := repaired
	if found == nil {
		did = created
	}
	c.changes.WithLabelValues(string(did)).Inc()
	c.log.InfoContext(ctx, "kept config map", "namespace", k.Name, "name", mesh.RootConfigMap, "change", string(did))
	return again, nil
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
