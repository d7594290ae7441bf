package ca

import (
	"context"
	"testing"
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
	a, _ := open(t, time.Now(), Options{})
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
	end := h.chain[0].NotAfter
	for i, want := range []time.Time{{}, end, end, {}} {
		if len(d.who) != 4 || d.who[i] != sleepID+" p1" || !d.expires[i].Equal(want) {
			t.Fatalf("%v, %v", d.who, d.expires)
		}
	}
	if d.inside != 0 || len(d.issued) != 4 || !d.issued[0].Equal(end) {
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
