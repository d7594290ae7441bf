package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

const cart = "spiffe://cluster.local/ns/shop/sa/cart"

func TestRevocationOf(t *testing.T) {
	now := time.Date(2026, 10, 1, 12, 0, 0, 5, time.FixedZone("", 3600))
	made := time.Date(2026, 10, 1, 11, 0, 0, 0, time.UTC)
	r, err := revocationOf(cart, "x", "now", now)
	if err != nil || r.ID != cart || r.Serial != "" || r.Reason != "x" || !r.Before.Equal(made) || !r.Made.Equal(made) {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = revocationOf("4f:1c", "x", "", now)
	if err != nil || r.ID != "" || r.Serial != "4f:1c" || r.Before != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err = revocationOf(cart, "x", "yesterday", now); err == nil {
		t.Error("accepted")
	}
}

// The ConfigMap is made where there is none, and what others do meanwhile is kept.
func TestEditRevocations(t *testing.T) {
	client := fake.NewClientset()
	add := func(r ca.Revocation) func(map[string]string) (map[string]string, error) {
		return func(data map[string]string) (map[string]string, error) { return ca.AddRevocation(data, r) }
	}
	read := func() []ca.Revocation {
		t.Helper()
		m, err := client.CoreV1().ConfigMaps("mesh").Get(t.Context(), mesh.RevocationsConfigMap, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all, err := ca.ParseRevocations(m.Data)
		if err != nil || m.Labels[mesh.ManagedByLabel] != mesh.ManagedBy {
			t.Errorf("%v, labels %v", err, m.Labels)
		}
		return all
	}
	if err := editRevocations(t.Context(), client, "mesh", add(ca.Revocation{ID: cart, Reason: "x"})); err != nil {
		t.Fatal(err)
	}
	conflicts := 0
	client.PrependReactor("update", "configmaps", func(kubetesting.Action) (bool, runtime.Object, error) {
		if conflicts++; conflicts == 1 {
			return true, nil, apierrors.NewConflict(corev1.Resource("configmaps"), mesh.RevocationsConfigMap, errors.New("changed"))
		}
		return false, nil, nil
	})
	if err := editRevocations(t.Context(), client, "mesh", add(ca.Revocation{Serial: "4f", Reason: "y"})); err != nil || conflicts != 2 {
		t.Fatalf("%v after %d updates", err, conflicts)
	}
	if all := read(); len(all) != 2 || all[0].ID != cart || all[1].Serial != "4f" {
		t.Errorf("%+v", all)
	}
	err := editRevocations(t.Context(), client, "mesh", func(data map[string]string) (map[string]string, error) {
		return ca.RemoveRevocation(data, ca.Revocation{ID: cart})
	})
	if err != nil || len(read()) != 1 {
		t.Errorf("%v, %+v", err, read())
	}
	err = editRevocations(t.Context(), client, "mesh", func(data map[string]string) (map[string]string, error) {
		return ca.RemoveRevocation(data, ca.Revocation{ID: cart})
	})
	if err == nil || !strings.Contains(err.Error(), "config map mesh/garrison-revocations: "+cart+" is not revoked") {
		t.Errorf("%v", err)
	}
}
