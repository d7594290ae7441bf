package cluster

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testWatchSecret(t *testing.T, l lab) {
	const ns, name = "watch-secret", "serving"
	l.namespace(t, ns, nil)
	api := l.as(t, allow("", "secrets", "list watch", name))
	seen := make(chan *corev1.Secret, 10)
	run(t, api.WatchSecret(ns, name, func(s *corev1.Secret) { seen <- s }))
	next := func() *corev1.Secret {
		t.Helper()
		select {
		case s := <-seen:
			return s
		case <-time.After(time.Minute):
			t.Fatal("not told")
			return nil
		}
	}
	secrets := l.admin.Client.CoreV1().Secrets(ns)
	if s := next(); s != nil {
		t.Fatalf("before it exists: %v", s.Name)
	}
	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"v": []byte("1")}}
	for _, s := range []*corev1.Secret{other, secret} {
		if _, err := secrets.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if s := next(); s == nil || string(s.Data["v"]) != "1" {
		t.Fatalf("created: %v", s)
	}
	secret.Data["v"] = []byte("2")
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := next(); s == nil || string(s.Data["v"]) != "2" {
		t.Fatalf("updated: %v", s)
	}
	if err := secrets.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := next(); s != nil {
		t.Fatalf("deleted: %v", s)
	}
}

func testWatchConfigMap(t *testing.T, l lab) {
	const ns, name = "watch-config-map", "overlays"
	l.namespace(t, ns, nil)
	api := l.as(t, allow("", "configmaps", "list watch", name))
	seen := make(chan map[string]string, 10)
	run(t, api.WatchConfigMap(ns, name, func(c *corev1.ConfigMap) {
		if c == nil {
			seen <- nil
			return
		}
		seen <- maps.Clone(c.Data)
		clear(c.Data) // it is ours
	}))
	expect := func(want map[string]string) {
		t.Helper()
		select {
		case got := <-seen:
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatal(diff)
			}
		case <-time.After(time.Minute):
			t.Fatal("not told")
		}
	}
	expect(nil)
	configMaps := l.admin.Client.CoreV1().ConfigMaps(ns)
	for _, name := range []string{"other", name} {
		c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"in": name}}
		if _, err := configMaps.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	expect(map[string]string{"in": name})
	if err := configMaps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(nil)
}
