package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestOldest(t *testing.T) {
	data := map[string]string{
		"a": `{"time":"2026-01-01T00:00:00Z"}`,
		"b": `{"time":"2026-01-03T00:00:00Z"}`,
		"c": `{"time":"2026-01-02T00:00:00Z"}`,
		"d": `not JSON`,
	}
	for n, want := range map[int][]string{-1: nil, 0: nil, 1: {"d"}, 2: {"d", "c"}, 9: {"d", "c", "b"}} {
		if got := oldest(data, "a", n); !slices.Equal(got, want) {
			t.Errorf("%d: %v, want %v", n, got, want)
		}
	}
}

func TestManagerOf(t *testing.T) {
	long := strings.Repeat("x", 200)
	if a, b := managerOf(long+"a"), managerOf(long+"b"); len(a) > maxManager || a == b {
		t.Errorf("%s, %s", a, b)
	}
	if a := managerOf("citadel-1"); a != "garrison-citadel-citadel-1" {
		t.Error(a)
	}
}

// Replicas keep each its own key, at its newest value, and not too many others'.
func testPublish(t *testing.T, l lab) {
	const ns = "published"
	l.namespace(t, ns, nil)
	api := l.as(t, allow("", "configmaps", "create patch", mesh.IssuanceLogConfigMap))
	value := func(n int) string {
		text, err := json.Marshal(map[string]any{"n": n, "time": time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC)})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	expect := func(want map[string]string) {
		t.Helper()
		within(t, func() error {
			found, err := l.admin.Client.CoreV1().ConfigMaps(ns).Get(t.Context(), mesh.IssuanceLogConfigMap, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if diff := cmp.Diff(want, found.Data); diff != "" || found.Labels[mesh.ManagedByLabel] != mesh.ManagedBy {
				return fmt.Errorf("labels %v, data %s", found.Labels, diff)
			}
			return nil
		})
	}
	var newest [3]atomic.Int32
	part := func(i int) Publication {
		return Publication{
			Namespace: ns, Name: mesh.IssuanceLogConfigMap, Key: fmt.Sprintf("replica-%d", i),
			Every: 100 * time.Millisecond, Keys: 2, Log: logger(t),
			Newest: func() (string, bool) { n := int(newest[i].Load()); return value(n), n > 0 },
		}
	}
	stop := run(t, api.KeepPublished(part(0)))
	run(t, api.KeepPublished(part(1)))
	newest[0].Store(1)
	expect(map[string]string{"replica-0": value(1)})
	newest[1].Store(2)
	newest[0].Store(3)
	expect(map[string]string{"replica-0": value(3), "replica-1": value(2)})
	if err := l.admin.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), mesh.IssuanceLogConfigMap, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	newest[0].Store(4)
	expect(map[string]string{"replica-0": value(4)})
	newest[1].Store(5)
	expect(map[string]string{"replica-0": value(4), "replica-1": value(5)})
	stop()
	newest[2].Store(6)
	if err := api.Publish(t.Context(), part(2)); err != nil {
		t.Fatal(err)
	}
	expect(map[string]string{"replica-1": value(5), "replica-2": value(6)})

	broken := part(2)
	broken.Namespace = "nowhere"
	if err := api.Publish(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "config map nowhere/"+mesh.IssuanceLogConfigMap) {
		t.Errorf("into a namespace that is not there: %v", err)
	}
	broken.Newest = func() (string, bool) { return "", false }
	if err := api.Publish(t.Context(), broken); err != nil {
		t.Errorf("without a value: %v", err)
	}
}
