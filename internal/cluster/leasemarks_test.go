package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// testLeaseMarks holds that what one leader marks the next one finds, with no other rights
// than those of leading, and that neither renewals nor hand-overs lose it.
func testLeaseMarks(t *testing.T, l lab) {
	const ns, name = "lease-marks", "citadel"
	l.namespace(t, ns, nil)
	api := l.as(t, allow("coordination.k8s.io", "leases", "create"), allow("coordination.k8s.io", "leases", "get update", name))
	leases := l.admin.Client.CoordinationV1().Leases(ns)
	for _, identity := range []string{"a", "b"} {
		lease := Lease{Namespace: ns, Name: name, Identity: identity, Log: logger(t),
			Duration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 100 * time.Millisecond}
		led := make(chan error, 1)
		stop := run(t, func(ctx context.Context) error {
			return api.Lead(ctx, lease, func(ctx context.Context) error {
				marks := api.LeaseMarks(lease.Namespace, lease.Name)
				found, err := marks.Has(ctx, "of a")
				if err == nil && found != (identity == "b") {
					t.Errorf("%s: found %v", identity, found)
				}
				for n := 0; n < 5 && err == nil; n++ { // between renewals, and in the midst of one
					err = marks.Leave(ctx, fmt.Sprintf("%s %d", identity, n))
				}
				if err == nil {
					err = marks.Leave(ctx, "of "+identity)
				}
				led <- err
				<-ctx.Done()
				return nil
			})
		})
		select {
		case err := <-led:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute): // RBAC takes a moment
			t.Fatalf("%s does not lead", identity)
		}
		marked, err := leases.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		within(t, func() error {
			now, err := leases.Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && !now.Spec.RenewTime.After(marked.Spec.RenewTime.Time) {
				err = errors.New("not renewed")
			}
			return err
		})
		stop()
	}
	lease, err := leases.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := lease.Annotations[mesh.LeaseMarks]; got != "a 0,a 1,a 2,a 3,a 4,of a,b 0,b 1,b 2,b 3,b 4,of b" {
		t.Errorf("marks %q", got)
	}
}

// Marks are bounded, the oldest go; each is there once; who renewed the Lease meanwhile is
// not overwritten; what else the Lease says stays.
func TestLeaseMarks(t *testing.T) {
	client := fake.NewClientset(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Namespace: "istio-system", Name: "citadel", Annotations: map[string]string{"owner": "ops"},
	}, Spec: coordinationv1.LeaseSpec{HolderIdentity: new("a")}})
	conflicts := 0
	client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		if conflicts++; conflicts == 1 {
			return true, nil, apierrors.NewConflict(coordinationv1.Resource("leases"), "citadel", nil)
		}
		return false, nil, nil
	})
	m := (&API{leases: client}).LeaseMarks("istio-system", "citadel")
	for n := range maxMarks + 2 {
		for range 2 {
			if err := m.Leave(t.Context(), fmt.Sprintf("m%d", n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for mark, want := range map[string]bool{"m1": false, "m2": true, fmt.Sprintf("m%d", maxMarks+1): true, "m": false, "": false} {
		if got, err := m.Has(t.Context(), mark); err != nil || got != want {
			t.Errorf("%q: %v, %v", mark, got, err)
		}
	}
	lease, err := client.CoordinationV1().Leases("istio-system").Get(t.Context(), "citadel", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	marks := strings.Split(lease.Annotations[mesh.LeaseMarks], ",")
	if len(marks) != maxMarks || len(slices.Compact(slices.Sorted(slices.Values(marks)))) != maxMarks {
		t.Errorf("%d marks: %q", len(marks), marks)
	}
	if lease.Annotations["owner"] != "ops" || *lease.Spec.HolderIdentity != "a" {
		t.Errorf("%+v", lease)
	}
	gone := (&API{leases: client}).LeaseMarks("istio-system", "gone")
	if _, err := gone.Has(t.Context(), "m1"); err == nil || !strings.HasPrefix(err.Error(), "lease istio-system/gone: ") {
		t.Errorf("no Lease: %v", err)
	}
}
