package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Whoever holds the token of a pod or an account that is gone, and shows it as often as
// they can, leaves the live reads to those whom the watch does not know yet.
func TestGoneLeaveTheReadsToOthers(t *testing.T) {
	type objects = []apiruntime.Object
	pay := cartAccount("a9")
	pay.Name = "pay"
	payPod := cartPod(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.ServiceAccountName = "pay-1", "p9", "pay" })
	for name, c := range map[string]struct{ shown, stored objects }{
		"pod":               {objects{cartAccount("a1")}, nil},
		"pod made anew":     {objects{cartAccount("a1")}, objects{cartPod(func(p *corev1.Pod) { p.UID = "p2" })}},
		"account":           {nil, nil},
		"account made anew": {objects{cartAccount("a2")}, objects{cartAccount("a2")}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, reads := viewOf(t, c.shown, append(objects{pay, payPod}, c.stored...))
				dead := func() {
					if err := w.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, "cart-1", "p1"); !errors.Is(err, ErrUnauthenticated) {
						t.Error(err)
					}
				}
				var storm sync.WaitGroup
				for range 10 * liveBurst {
					storm.Go(dead)
				}
				storm.Wait()
				if n := reads.Load(); n != 1 {
					t.Fatalf("%d reads for all that came together", n)
				}
				for range 10 * liveBurst { // one each 50 ms
					time.Sleep(goneFor / 200)
					dead()
				}
				if n := reads.Load(); n != 3 {
					t.Errorf("%d reads, want one each %v", n, goneFor)
				}
				if err := w.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "pay", UID: "a9"}, "pay-1", "p9"); err != nil {
					t.Errorf("a pod that the watch has not shown yet: %v", err)
				}
			})
		})
	}
}

// That one is gone says nothing of another, though it has the same name; and what is
// there is never remembered, so that it is not taken for alive when it is gone.
func TestGoneIsOneAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := viewOf(t, nil, []apiruntime.Object{cartAccount("a1")})
		alive := func(account, pod string) error {
			return w.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: account}, "cart-1", pod)
		}
		expect := func(what string, err, want error) {
			t.Helper()
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		expect("before there is a pod", alive("a1", "p1"), ErrUnauthenticated)
		pods, accounts := w.client.CoreV1().Pods("shop"), w.client.CoreV1().ServiceAccounts("shop")
		if _, err := pods.Create(t.Context(), cartPod(func(p *corev1.Pod) { p.UID = "p2" }), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("its successor", alive("a1", "p2"), nil)
		expect("its successor again", alive("a1", "p2"), nil)
		if err := pods.Delete(t.Context(), "cart-1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("its successor, gone", alive("a1", "p2"), ErrUnauthenticated)
		if err := accounts.Delete(t.Context(), "cart", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("the account, gone", alive("a1", ""), ErrUnauthenticated)
		if _, err := accounts.Create(t.Context(), cartAccount("a2"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect("the account made anew", alive("a2", ""), nil)
		expect("whatever account has the name", alive("", ""), nil)
		if err := errors.Join(w.accounts.Add(cartAccount("a1")), w.pods.Add(cartPod(nil))); err != nil { // as after a restore of the storage
			t.Fatal(err)
		}
		expect("what the watch shows", alive("a1", "p1"), nil)
	})
}

// What could not be read is not known to be gone, and those who wait for a read of
// others' wait no longer than they want to.
func TestGoneIsKnownFromAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, of := newGone(), incarnation{podObjects, key{Namespace: "shop", Name: "cart-1"}, "p1"}
		fails := func() (*resident, error) { return nil, ErrUnavailable }
		none := func() (*resident, error) { return nil, nil }
		if _, err := g.look(t.Context(), of, fails); !errors.Is(err, ErrUnavailable) || g.known.Len() != 0 {
			t.Errorf("%v, %d known", err, g.known.Len())
		}
		answer := make(chan struct{})
		go func() { // ends with answer
			_, _ = g.look(t.Context(), of, func() (*resident, error) { <-answer; return nil, nil })
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.look(ctx, of, none); !errors.Is(err, ErrUnavailable) {
			t.Errorf("while another reads: %v", err)
		}
		close(answer)
		synctest.Wait()
		for n := range 3 * goneKept {
			of.uid = fmt.Sprint(n)
			if _, err := g.look(t.Context(), of, none); err != nil {
				t.Fatal(err)
			}
		}
		if n := g.known.Len(); n > 2*goneKept || len(g.reading) > 0 {
			t.Errorf("%d known, %d under way", n, len(g.reading))
		}
	})
}
