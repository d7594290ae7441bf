package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// onLease stands for the marks on the Lease, which all leaders share.
type onLease struct {
	marks   map[string]bool
	failing int // so many calls fail
}

func (m *onLease) Has(_ context.Context, mark string) (bool, error) {
	return m.marks[mark], m.fail()
}

func (m *onLease) Leave(_ context.Context, mark string) error {
	err := m.fail()
	if err == nil {
		m.marks[mark] = true
	}
	return err
}

func (m *onLease) fail() error {
	if m.failing--; m.failing >= 0 {
		return errors.New("lease: timeout")
	}
	return nil
}

// endingSoon is a plugged-in CA whose root has so much left, the Events about it since now,
// and as many leaders one after the other as processes are asked for.
type endingSoon struct {
	began time.Time
	ends  time.Time
	lease onLease
	got   []string
	// refusals is how many Events the API server does not take.
	refusals int
}

func (e *endingSoon) process() *warner {
	return &warner{
		namespace: "keys", plugged: "mesh", log: slog.New(slog.DiscardHandler), told: map[string]bool{}, marks: &e.lease,
		status: func() ca.Status {
			return ca.Status{Source: mesh.CAPlugged, Certificates: []ca.CertificateInfo{
				{Role: ca.RootRole, Subject: "CN=root", Fingerprint: fmt.Sprintf("%064d", 7), NotAfter: e.ends},
			}}
		},
		write: func(_ context.Context, w cluster.SecretWarning) error {
			if e.refusals--; e.refusals >= 0 {
				return errors.New("timeout")
			}
			e.got = append(e.got, fmt.Sprintf("%v: %s/%s %s %s", time.Since(e.began).Round(time.Minute), w.Namespace, w.Secret, w.Reason, w.ID))
			return nil
		},
	}
}

// lead has a process lead until so many days after the beginning.
func (e *endingSoon) lead(t *testing.T, w *warner, days float64) {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), e.began.Add(time.Duration(days*24)*time.Hour))
	defer cancel()
	if err := w.run(ctx); err != nil {
		t.Error(err)
	}
}

func newEndingSoon() *endingSoon {
	now := time.Now()
	return &endingSoon{began: now, ends: now.Add(40 * 24 * time.Hour), lease: onLease{marks: map[string]bool{}}}
}

// In the last 40 days of a plugged-in CA there are three Events: an API server that does
// not take one is asked again, and neither another term nor another hour, another leader nor a
// restart repeats one, though the API server forgets it after an hour.
func TestWarner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndingSoon()
		e.refusals = 3
		first := e.process()
		e.lead(t, first, 15)
		e.lead(t, e.process(), 20)
		first.plugged = "" // it is in files
		e.lead(t, first, 34)
		e.lead(t, e.process(), 40.5)
		if diff := cmp.Diff([]string{
			"240h3m0s: mesh/cacerts CertificateEnds certificate-ends.0000000000000000.30d",
			"792h0m0s: keys/garrison-ca-intermediate CertificateEnds certificate-ends.0000000000000000.7d",
			"936h0m0s: mesh/cacerts CertificateEnds certificate-ends.0000000000000000.1d",
		}, e.got); diff != "" {
			t.Error(diff)
		}
	})
}

// Who leads first after a threshold was passed tells it, however long nobody led.
func TestWarnerAfterAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndingSoon()
		e.lead(t, e.process(), 9)
		lapse := time.NewTimer(5 * 24 * time.Hour)
		<-lapse.C
		e.lead(t, e.process(), 15)
		if diff := cmp.Diff([]string{"336h0m0s: mesh/cacerts CertificateEnds certificate-ends.0000000000000000.30d"}, e.got); diff != "" {
			t.Error(diff)
		}
	})
}

// A Lease that cannot be read keeps the Event back, and one that cannot be written has it
// written no more often.
func TestWarnerWithoutLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndingSoon()
		w := e.process()
		e.lead(t, w, 9)
		e.lease.failing = 90 // minutes: the first call of each look fails
		e.lead(t, w, 11)
		e.lease.failing = 0
		w = e.process()
		w.marks = unmarkable{&e.lease}
		e.lead(t, w, 33.5)
		if diff := cmp.Diff([]string{
			"241h30m0s: mesh/cacerts CertificateEnds certificate-ends.0000000000000000.30d",
			"792h0m0s: mesh/cacerts CertificateEnds certificate-ends.0000000000000000.7d",
		}, e.got); diff != "" {
			t.Error(diff)
		}
		e.lead(t, e.process(), 34) // the mark could not be left: better twice than never
		if len(e.got) != 3 {
			t.Errorf("%q", e.got)
		}
	})
}

// unmarkable is a Lease that can be read alone.
type unmarkable struct{ marks }

func (unmarkable) Leave(context.Context, string) error { return errors.New("forbidden") }

// expectWarning waits for the one Event about a Secret of the CA.
func (l lab) expectWarning(t *testing.T, secret *corev1.Secret) {
	t.Helper()
	var found []corev1.Event
	eventually(t, "the Event that the CA ends", func(ctx context.Context) error {
		list, err := l.CoreV1().Events(secret.Namespace).List(ctx, metav1.ListOptions{
			FieldSelector: "reason=" + ca.CertificateEnds + ",involvedObject.uid=" + string(secret.UID)})
		if err != nil {
			return err
		}
		if found = list.Items; len(found) == 0 {
			return errors.New("none")
		}
		return nil
	})
	if e := found[0]; len(found) != 1 || e.Type != corev1.EventTypeWarning || e.Source.Component != mesh.CitadelFieldManager {
		t.Errorf("%d Events, the first: %+v", len(found), e)
	}
}
