package ca

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// door is a gate that remembers whom it saw.
type door struct {
	who     []string
	expires []time.Time
	inside  int
	issued  []time.Time
	err     error
}

func (d *door) Enter(_ context.Context, who identity.ID, pod string, expires time.Time) (leave func(), err error) {
	d.who, d.expires = append(d.who, who.String()+" "+pod), append(d.expires, expires)
	if d.err != nil {
		return nil, d.err
	}
	d.inside++
	return func() { d.inside-- }, nil
}

func (d *door) Issued(who identity.ID, pod string, notAfter time.Time) {
	if who.String()+" "+pod == d.who[len(d.who)-1] {
		d.issued = append(d.issued, notAfter)
	}
}

// Whom the certificate is for takes the turn, with the end of the one that it holds, and
// gives it back; whoever is nobody takes none.
func TestGate(t *testing.T) {
	a, _ := open(t, time.Now().Add(-24*time.Hour), Options{})
	var d door
	service := NewService(a, asSleep, ServiceOptions{Gate: &d, Workloads: &running{pods: []mesh.Pod{sleepPod}}})
	h := mustObtain(t, bearing(t, token), service)
	mustObtain(t, shown(t.Context(), token, h.chain...), service)
	mustObtain(t, shown(t.Context(), "", h.chain...), service)
	other := signLeaf(t, a, names{id: mustID(t, httpbinID)}, time.Now())
	mustObtain(t, shown(t.Context(), token, other.chain...), service)
	if _, err := obtain(t, bearing(t, "x"), service); err == nil {
		t.Error("issued")
	}
	// One that it does not hold from here, or that has ended, gives it no place in the line.
	stranger, _ := open(t, time.Now(), Options{})
	mustObtain(t, shown(t.Context(), token, signLeaf(t, stranger, names{id: mustID(t, sleepID)}, time.Now()).chain...), service)
	mustObtain(t, shown(t.Context(), token, signLeaf(t, a, names{id: mustID(t, sleepID)}, time.Now().Add(-2*time.Hour)).chain...), service)
	end := h.chain[0].NotAfter
	for i, want := range []time.Time{{}, end, end, {}, {}, {}} {
		if len(d.who) != 6 || d.who[i] != sleepID+" p1" || !d.expires[i].Equal(want) {
			t.Fatalf("%v, %v", d.who, d.expires)
		}
	}
	if d.inside != 0 || len(d.issued) != 6 || !d.issued[0].Equal(end) {
		t.Errorf("%d are still inside, %v issued", d.inside, d.issued)
	}
}

func TestGateTurnsAway(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	_, err := obtain(t, bearing(t, token), NewService(a, asSleep, ServiceOptions{Gate: &door{err: &Busy{After: 3 * time.Second}}}))
	expectRefusal(t, err, codes.ResourceExhausted, "the certificate authority is busy")
	kept.expectRefusal(t, err, RuleBusy)
	for _, d := range status.Convert(err).Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok && retry.RetryDelay.AsDuration() == 3*time.Second {
			return
		}
	}
	t.Errorf("%v does not say when to come back", err)
}

// Who went while they waited gets nothing, and whom nobody can tell of comes again.
func TestGoneWhileWaiting(t *testing.T) {
	podGone := func(_ mesh.ServiceAccount, pod string, _ time.Time) error {
		if pod == "p1" {
			return fmt.Errorf("pod: %w", ErrUnauthenticated)
		}
		return nil
	}
	behind := func(mesh.ServiceAccount, string, time.Time) error { return fmt.Errorf("watch: %w", ErrUnavailable) }
	alive := func(mesh.ServiceAccount, string, time.Time) error { return nil }
	for name, c := range map[string]struct {
		still        StillAlive
		byToken, own Rule // of a token that was reviewed, of a certificate
	}{
		"pod gone":       {podGone, RuleToken, RuleCertificatePod},
		"alive":          {alive, "", ""},
		"watches behind": {behind, "", RuleUnavailable},
		"nobody knows":   {nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var kept book
				a, _ := open(t, time.Now(), Options{Recorder: &kept})
				running := &running{pods: []mesh.Pod{sleepPod}}
				h := mustObtain(t, bearing(t, token), NewService(a, asSleep, ServiceOptions{Workloads: running}))
				service := NewService(a, asSleep, ServiceOptions{Gate: unhurried{turn: time.Second}, Workloads: running, StillAlive: c.still})
				for ctx, want := range map[context.Context]Rule{bearing(t, token): c.byToken, shown(t.Context(), "", h.chain...): c.own} {
					kept.entries = nil
					_, err := obtain(t, ctx, service)
					if e := kept.only(t); e.Rule != string(want) || (err != nil) != (want != "") {
						t.Errorf("%v, recorded %+v, want %q", err, e, want)
					}
				}
			})
		})
	}
}

// A node proxy gets nothing for a pod that has gone while it waited, nor when it has
// gone itself.
func TestGoneWhileWaitingOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept book
		a, _ := open(t, time.Now(), Options{Recorder: &kept})
		service := trusting(a, asZtunnel, node())
		gone := ""
		service.options.Gate = unhurried{turn: time.Second}
		service.options.StillAlive = func(account mesh.ServiceAccount, pod string, since time.Time) error {
			if time.Since(since) != time.Second { // when it was proven
				t.Errorf("since %v", since)
			}
			if who := account.Name + " " + account.UID + " " + pod; who == gone {
				return fmt.Errorf("pod: %w", ErrUnauthenticated)
			}
			return nil
		}
		for who, rule := range map[string]Rule{"": "", "httpbin h hp": RuleImpersonatedNode, "ztunnel z zp": RuleToken} {
			gone, kept.entries = who, nil
			_, err := impersonate(t, bearing(t, token), service, httpbinID)
			if e := kept.only(t); e.Rule != string(rule) || (err != nil) != (rule != "") {
				t.Errorf("%q is gone: %v, recorded %+v", who, err, e)
			}
		}
	})
}
