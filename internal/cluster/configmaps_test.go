package cluster

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestCovers(t *testing.T) {
	configMap := func(data, labels map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Data: data}
	}
	type m = map[string]string
	want := configMap(m{"root": "r"}, m{"l": "1"})
	for name, c := range map[string]struct {
		found *corev1.ConfigMap
		want  bool
	}{
		"absent":      {nil, false},
		"equal":       {want, true},
		"more":        {configMap(m{"root": "r", "x": ""}, m{"l": "1", "y": ""}), true},
		"key lost":    {configMap(m{"x": "r"}, m{"l": "1"}), false},
		"key changed": {configMap(m{"root": "x"}, m{"l": "1"}), false},
		"label lost":  {configMap(m{"root": "r"}, nil), false},
	} {
		if got := covers(c.found, want); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// changesOf returns what the metric says of the keeper's changes.
func changesOf(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "citadel_root_config_map_changes_total" {
			for _, m := range f.GetMetric() {
				changes[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return changes
}

// Somebody who spoils the roots again and again does not make us write without end.
func TestConfigMapsSpoiltAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, metrics := shop(t), prometheus.NewRegistry()
		stop := run(t, api.KeepConfigMaps(ConfigMapKeeper{
			Desired: func(*corev1.Namespace) *corev1.ConfigMap {
				return &corev1.ConfigMap{Data: map[string]string{mesh.RootKey: "root"}}
			},
			Metrics: metrics,
		}))
		lapse(time.Second)
		configMaps := api.Client.CoreV1().ConfigMaps("shop")
		for range 600 {
			found, err := configMaps.Get(t.Context(), mesh.RootConfigMap, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if found.Data[mesh.RootKey] == "root" {
				found = found.DeepCopy()
				found.Data[mesh.RootKey] = "mine"
				if _, err := configMaps.Update(t.Context(), found, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			lapse(100 * time.Millisecond)
		}
		stop()
		if n := changesOf(t, metrics); n["repaired"] < 5 || n["repaired"] > 10 || n["tampered"] != n["repaired"] { // as for Secrets
			t.Errorf("in a minute %v", n)
		}
	})
}

// A namespace that came again gets its roots also where the API server takes it for the one
// before at first.
func TestConfigMapsOfANamespaceThatCameAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		heard := namespaceSeemsGoing(api.Client, "patch", "configmaps")
		stop := run(t, api.KeepConfigMaps(ConfigMapKeeper{
			Desired: func(*corev1.Namespace) *corev1.ConfigMap {
				return &corev1.ConfigMap{Data: map[string]string{mesh.RootKey: "root"}}
			},
			Metrics: prometheus.NewRegistry(),
		}))
		lapse(time.Second)
		heard.Store(true)
		lapse(2 * lastRetry)
		if _, err := api.Client.CoreV1().ConfigMaps("shop").Get(t.Context(), mesh.RootConfigMap, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
		stop()
	})
}

func testConfigMaps(t *testing.T, l lab) {
	const name = mesh.RootConfigMap
	api := l.as(t,
		allow("", "namespaces", "list watch"),
		allow("", "configmaps", "create list watch patch", name),
		allow("", "events", "create"))
	core := l.admin.Client.CoreV1()
	l.namespace(t, "early", nil)
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"other": "1", mesh.RootKey: "forged"}}
	if _, err := core.ConfigMaps("early").Create(t.Context(), theirs, metav1.CreateOptions{FieldManager: "somebody"}); err != nil {
		t.Fatal(err)
	}
	var root atomic.Value
	root.Store("root 1")
	again := make(chan struct{})
	metrics := prometheus.NewRegistry()
	stop := run(t, api.KeepConfigMaps(ConfigMapKeeper{
		Desired: func(ns *corev1.Namespace) *corev1.ConfigMap {
			if ns.Name == metav1.NamespacePublic {
				return nil
			}
			return &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"istio.io/config": "true"}},
				Data:       map[string]string{mesh.RootKey: root.Load().(string)},
			}
		},
		Again: again,
		Log:   logger(t), Metrics: metrics,
	}))
	wants := func(t *testing.T, namespace string, want map[string]string) {
		t.Helper()
		within(t, func() error {
			found, err := core.ConfigMaps(namespace).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if diff := cmp.Diff(want, found.Data); diff != "" || found.Labels["istio.io/config"] != "true" {
				return fmt.Errorf("labels %v, data (-want +got): %s", found.Labels, diff)
			}
			return nil
		})
	}
	both := map[string]string{"other": "1", mesh.RootKey: "root 1"}
	alone := map[string]string{mesh.RootKey: "root 1"}
	wants(t, "early", both)
	l.namespace(t, "late", nil)
	wants(t, "late", alone)

	t.Run("changed", func(t *testing.T) {
		found, err := core.ConfigMaps("early").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found.Data = map[string]string{"other": "2", mesh.RootKey: "forged again"}
		if _, err := core.ConfigMaps("early").Update(t.Context(), found, metav1.UpdateOptions{FieldManager: "somebody"}); err != nil {
			t.Fatal(err)
		}
		wants(t, "early", map[string]string{"other": "2", mesh.RootKey: "root 1"})
		within(t, func() error {
			if n := changesOf(t, metrics)["tampered"]; n != 1 {
				return fmt.Errorf("%v were tampered with", n)
			}
			return nil
		})
	})

	t.Run("deleted", func(t *testing.T) {
		if err := core.ConfigMaps("late").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		wants(t, "late", alone)
	})

	t.Run("none belongs", func(t *testing.T) {
		if _, err := core.ConfigMaps(metav1.NamespacePublic).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%v, want not found", err)
		}
	})

	t.Run("terminating", func(t *testing.T) {
		l.namespace(t, "ending", nil)
		wants(t, "ending", alone)
		if err := core.Namespaces().Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := core.ConfigMaps("ending").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		holdsFor(t, time.Second, func() error {
			if _, err := core.ConfigMaps("ending").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("got %w, want not found", err)
			}
			return nil
		})
		l.finalize(t, "ending")
		l.namespace(t, "ending", nil)
		wants(t, "ending", alone)
	})

	t.Run("new root", func(t *testing.T) {
		root.Store("root 2")
		again <- struct{}{}
		wants(t, "late", map[string]string{mesh.RootKey: "root 2"})
		wants(t, "early", map[string]string{"other": "2", mesh.RootKey: "root 2"})
	})
	stop()
}

// A ConfigMap of another name, in one namespace, needs rights there and no elsewhere.
func testOneConfigMap(t *testing.T, l lab) {
	api := l.as(t, allow("", "namespaces", "list watch"), allow("", "configmaps", "create list watch patch", mesh.LegacyRootConfigMap))
	l.namespace(t, "legacy", nil)
	l.namespace(t, "legacy-not", nil)
	run(t, api.KeepConfigMaps(ConfigMapKeeper{
		Name: mesh.LegacyRootConfigMap, Namespace: "legacy",
		Desired: func(ns *corev1.Namespace) *corev1.ConfigMap {
			return &corev1.ConfigMap{Data: map[string]string{"ns": ns.Name}}
		},
		Log: logger(t),
	}))
	core := l.admin.Client.CoreV1()
	within(t, func() error {
		found, err := core.ConfigMaps("legacy").Get(t.Context(), mesh.LegacyRootConfigMap, metav1.GetOptions{})
		if err == nil && found.Data["ns"] != "legacy" {
			err = fmt.Errorf("holds %v", found.Data)
		}
		return err
	})
	if _, err := core.ConfigMaps("legacy-not").Get(t.Context(), mesh.LegacyRootConfigMap, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("elsewhere: %v", err)
	}
}
