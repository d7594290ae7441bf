package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

// A watch that has died without a word delays a change until the next reading, and what was
// read last is confirmed as long as it can be read, and no longer.
func TestFollowConfigMapPastAStuckWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		client.PrependWatchReactor("configmaps", func(kubetesting.Action) (bool, watch.Interface, error) {
			return true, watch.NewFake(), nil // it never says anything
		})
		var away atomic.Bool
		client.PrependReactor("list", "configmaps", func(kubetesting.Action) (bool, runtime.Object, error) {
			if away.Load() {
				return true, nil, errors.New("no answer")
			}
			return false, nil, nil
		})
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		var told []string
		var asOf time.Time
		ended := make(chan error, 1)
		api := &API{Client: client, reviews: client}
		go func() {
			ended <- api.FollowConfigMap(Following{
				Namespace: "mesh", Name: "revoked", Every: 5 * time.Second,
				Got: func(c *corev1.ConfigMap) {
					mu.Lock()
					defer mu.Unlock()
					if c == nil {
						told = append(told, "none")
						return
					}
					told = append(told, c.Data["v"])
				},
				Confirmed: func(at time.Time) {
					mu.Lock()
					defer mu.Unlock()
					asOf = at
				},
			})(ctx)
		}()
		expect := func(what string, age time.Duration, states ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := time.Since(asOf); got != age || !slices.Equal(told, states) {
				t.Errorf("%s: told %q, %v ago; want %q, %v", what, told, got, states, age)
			}
		}
		expect("at first", 0, "none")
		time.Sleep(4 * time.Second)
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "revoked", ResourceVersion: "1"}, Data: map[string]string{"v": "1"}}
		if _, err := client.CoreV1().ConfigMaps("mesh").Create(ctx, made, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("before the reading", 4*time.Second, "none")
		time.Sleep(time.Second)
		expect("after it", 0, "none", "1")
		time.Sleep(time.Hour)
		expect("when nothing changes", 0, "none", "1")

		away.Store(true)
		time.Sleep(time.Minute)
		expect("while it cannot be read", time.Minute, "none", "1")
		away.Store(false)
		if err := client.CoreV1().ConfigMaps("mesh").Delete(ctx, "revoked", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		expect("when it can again", 0, "none", "1", "none")
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func testFollowConfigMap(t *testing.T, l lab) {
	const ns, name = "follow-config-map", "revoked"
	l.namespace(t, ns, nil)
	api := l.as(t, allow("", "configmaps", "list watch", name))
	seen := make(chan *corev1.ConfigMap, 10)
	confirmed := make(chan time.Time, 1000)
	began := time.Now()
	run(t, api.FollowConfigMap(Following{
		Namespace: ns, Name: name, Every: 5 * time.Minute, // only the watch can tell in time
		Got: func(c *corev1.ConfigMap) { seen <- c }, Confirmed: func(at time.Time) { confirmed <- at },
	}))
	next := func() *corev1.ConfigMap {
		t.Helper()
		select {
		case c := <-seen:
			return c
		case <-time.After(time.Minute):
			t.Fatal("not told")
			return nil
		}
	}
	if c := next(); c != nil {
		t.Fatalf("before it exists: %v", c)
	}
	configMaps := l.admin.Client.CoreV1().ConfigMaps(ns)
	for _, name := range []string{"other", name} {
		c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"in": name}}
		if _, err := configMaps.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if c := next(); c == nil || c.Data["in"] != name {
		t.Fatalf("created: %v", c)
	}
	if err := configMaps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if c := next(); c != nil {
		t.Fatalf("deleted: %v", c)
	}
	if at := <-confirmed; at.Before(began) || time.Now().Before(at) {
		t.Errorf("confirmed as of %v, asked from %v on", at, began)
	}
}
