package cluster

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testEnsureSecret(t *testing.T, l lab) {
	const ns, name = "ensure-secret", "below"
	l.namespace(t, ns, nil)
	api := l.as(t, allow("", "secrets", "create"), allow("", "secrets", "get update", name), allow("", "configmaps", "list", "roots"))
	if found, err := api.ReadSecret(t.Context(), ns, name); found != nil || err != nil {
		t.Errorf("read %v, %v before there is one", found, err)
	}
	says := func(by string) func(*corev1.Secret) (*corev1.Secret, error) {
		return func(found *corev1.Secret) (*corev1.Secret, error) {
			if found == nil {
				found = &corev1.Secret{}
			}
			found.Data = map[string][]byte{"by": []byte(by)}
			return found, nil
		}
	}
	made, err := api.EnsureSecret(t.Context(), ns, name, says("a"))
	if err != nil || string(made.Data["by"]) != "a" {
		t.Fatalf("made %v, %v", made, err)
	}
	t.Run("somebody writes in between", func(t *testing.T) {
		calls := 0
		got, err := api.EnsureSecret(t.Context(), ns, name, func(found *corev1.Secret) (*corev1.Secret, error) {
			if calls++; calls > 1 {
				if string(found.Data["by"]) != "b" {
					t.Errorf("asked again with %q", found.Data["by"])
				}
				return nil, nil // what the other one made is good
			}
			if _, err := api.EnsureSecret(t.Context(), ns, name, says("b")); err != nil {
				t.Error(err)
			}
			return says("c")(found)
		})
		if err != nil || calls != 2 || string(got.Data["by"]) != "b" || got.UID != made.UID {
			t.Errorf("%v, %v after %d calls", got, err, calls)
		}
	})
	t.Run("refused", func(t *testing.T) {
		broken := errors.New("no entropy")
		_, err := api.EnsureSecret(t.Context(), ns, name, func(*corev1.Secret) (*corev1.Secret, error) { return nil, broken })
		if !errors.Is(err, broken) {
			t.Errorf("%v, want %v", err, broken)
		}
		if found, err := api.ReadSecret(t.Context(), ns, name); err != nil || string(found.Data["by"]) != "b" {
			t.Errorf("read %v, %v", found, err)
		}
	})
	t.Run("config map", func(t *testing.T) {
		if found, err := api.ReadConfigMap(t.Context(), ns, "roots"); found != nil || err != nil {
			t.Errorf("read %v, %v before there is one", found, err)
		}
		for _, name := range []string{"roots", "other"} {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"is": name}}
			if _, err := l.admin.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := api.ReadConfigMap(t.Context(), ns, "roots"); err != nil || found == nil || found.Data["is"] != "roots" {
			t.Errorf("read %v, %v", found, err)
		}
		if _, err := api.ReadConfigMap(t.Context(), ns, "other"); !apierrors.IsForbidden(err) {
			t.Errorf("read another: %v", err)
		}
	})
}
