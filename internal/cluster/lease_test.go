package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testLease(t *testing.T, l lab) {
	const ns, name = "leases", "citadel"
	l.namespace(t, ns, nil)
	api := l.as(t,
		allow("coordination.k8s.io", "leases", "create"),
		allow("coordination.k8s.io", "leases", "get update", name))
	var leading, over atomic.Int32 // how many at a time, and how many terms have ended
	terms := make(chan string)
	stand := func(identity string) (stop func()) {
		lease := Lease{Namespace: ns, Name: name, Identity: identity, Log: logger(t),
			Duration: 30 * time.Second, RenewDeadline: 6 * time.Second, RetryPeriod: 2 * time.Second}
		return run(t, func(ctx context.Context) error {
			return api.Lead(ctx, lease, func(ctx context.Context) error {
				if n := leading.Add(1); n != 1 {
					t.Errorf("%d leaders", n)
				}
				defer over.Add(1)
				defer leading.Add(-1)
				select {
				case terms <- identity:
				case <-ctx.Done():
					return nil
				}
				<-ctx.Done()
				<-time.After(time.Second) // work that does not end at once
				return nil
			})
		})
	}
	wants := func(want string) {
		t.Helper()
		select {
		case got := <-terms:
			if got != want {
				t.Fatalf("%s leads, want %s", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("nobody leads after %v", patience)
		}
	}
	holder := func() string {
		t.Helper()
		lease, err := l.admin.Client.CoordinationV1().Leases(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
	stopA := stand("a")
	wants("a")
	stopB := stand("b")
	stopA()
	if got := holder(); got == "a" {
		t.Error("not handed over: the others have to wait for its end")
	}
	wants("b")

	t.Run("stolen", func(t *testing.T) {
		leases, before := l.admin.Client.CoordinationV1().Leases(ns), over.Load()
		within(t, func() error { // between two renewals
			lease, err := leases.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			thief, now, duration := "thief", metav1.NowMicro(), int32(8) // which b hears of, and has lost by then
			lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &thief, RenewTime: &now, AcquireTime: &now, LeaseDurationSeconds: &duration}
			_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
			return err
		})
		within(t, func() error {
			if over.Load() == before {
				return errors.New("still leading without the lease")
			}
			return nil
		})
		wants("b") // stands again, and wins once the thief is silent
	})

	stopB()
	if got := holder(); got != "" {
		t.Errorf("after a clean stop: holder %q", got)
	}

	t.Run("work ends by itself", func(t *testing.T) {
		broken := errors.New("broken")
		lease := Lease{Namespace: ns, Name: name, Identity: "c"}
		err := api.Lead(t.Context(), lease, func(context.Context) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("Lead: %v", err)
		}
		if err := api.Lead(t.Context(), lease, func(context.Context) error { return nil }); err != nil {
			t.Errorf("Lead: %v", err)
		}
	})

	t.Run("contradiction", func(t *testing.T) {
		lease := Lease{Namespace: ns, Name: name, Identity: "d", Duration: time.Second}
		err := api.Lead(t.Context(), lease, func(context.Context) error { return fmt.Errorf("led") })
		if err == nil || err.Error() == "led" {
			t.Errorf("a lease shorter than its renewal deadline: %v", err)
		}
	})
}
