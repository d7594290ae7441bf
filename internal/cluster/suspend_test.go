package cluster

import (
	"crypto"
	"errors"
	"testing"
	"time"

	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// What was seen before a suspension is as old as the calendar says, not as the time that
// the machine was awake.
func TestSuspendedViewIsNotBelieved(t *testing.T) {
	both := []apiruntime.Object{cartAccount("a1"), cartPod(nil)}
	for name, pick := range map[string]func(*Workloads) *mirror{
		podObjects:     func(w *Workloads) *mirror { return &w.pods },
		accountObjects: func(w *Workloads) *mirror { return &w.accounts },
	} {
		t.Run(name, func(t *testing.T) {
			w, reads := viewOf(t, both, nil) // the storage has neither any more
			m := pick(w)
			expect := func(what string, asOf time.Time, want error) {
				t.Helper()
				m.proof.asOf = asOf
				if err := w.Ready(); !errors.Is(err, want) {
					t.Errorf("%s: %v at the age of %v", what, err, age(m))
				}
			}
			now := time.Now()
			expect("suspended for less than the window", meshtest.Suspended(t, now, DefaultWindow/2), nil)
			expect("the clock was set back", meshtest.Suspended(t, now.Add(-DefaultWindow), -time.Hour), ErrUnavailable)
			expect("suspended for longer", meshtest.Suspended(t, now, DefaultWindow), ErrUnavailable)
			if err := w.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, "cart-1", "p1"); !errors.Is(err, ErrUnauthenticated) || reads.Load() != 1 {
				t.Errorf("a pod that went meanwhile: %v after %d reads", err, reads.Load())
			}
			m.proof.read(reading{"10", time.Now()}) // awake, the watch has caught up
			if err := w.Ready(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Keys that the API server may have withdrawn since are read anew.
func TestSuspendedKeysAreReadAnew(t *testing.T) {
	api := publish(map[string]crypto.PublicKey{"e": ecKey().Public()})
	k := newTokenKeys(api.get, orDiscard(nil))
	find := func() error {
		_, _, err := k.find(t.Context(), "e")
		return err
	}
	if err := find(); err != nil {
		t.Fatal(err)
	}
	before := api.reads.Load()
	set := *k.current.Load()
	set.read = meshtest.Suspended(t, set.read, keysFor+time.Second)
	k.current.Store(&set)
	k.attempt = meshtest.Suspended(t, k.attempt, keysFor+time.Second)
	if _, err := k.usable(); err == nil {
		t.Error("keys from before the suspension are believed")
	}
	if err := find(); err != nil || api.reads.Load() == before {
		t.Errorf("%v after %d more reads", err, api.reads.Load()-before)
	}
}

// A wait that a suspension fell into was not short.
func TestSuspendedWait(t *testing.T) {
	w := &Workloads{window: DefaultWindow} // has seen nothing
	now := time.Now()
	if err := w.StillAlive(mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, "p1", meshtest.Suspended(t, now, time.Hour)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("proven an hour ago: %v", err)
	}
}
