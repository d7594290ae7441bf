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

// In the last 40 days of a plugged-in CA there are three Events: an API server that does
// not take one is asked again, and neither another term nor another hour repeats one.
func TestWarner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ends := began.Add(40 * 24 * time.Hour)
		var got []string
		refusals := 0
		w := &warner{
			namespace: "keys", log: slog.New(slog.DiscardHandler), told: map[string]bool{},
			status: func() ca.Status {
				return ca.Status{Source: mesh.CAPlugged, Certificates: []ca.CertificateInfo{
					{Role: ca.RootRole, Subject: "CN=root", Fingerprint: fmt.Sprintf("%064d", 7), NotAfter: ends},
				}}
			},
			write: func(_ context.Context, w cluster.SecretWarning) error {
				if refusals++; refusals <= 3 {
					return errors.New("timeout")
				}
				got = append(got, fmt.Sprintf("%v: %s/%s %s %s", time.Since(began).Round(time.Minute), w.Namespace, w.Secret, w.Reason, w.ID))
				return nil
			},
		}
		for _, days := range []time.Duration{15, 40} { // two terms
			ctx, cancel := context.WithDeadline(t.Context(), began.Add(days*24*time.Hour+time.Hour))
			if err := w.run(ctx); err != nil {
				t.Error(err)
			}
			cancel()
			w.files = true
		}
		if diff := cmp.Diff([]string{
			"240h3m0s: keys/cacerts CertificateEnds certificate-ends.0000000000000000.30d",
			"792h0m0s: keys/garrison-ca-intermediate CertificateEnds certificate-ends.0000000000000000.7d",
			"936h0m0s: keys/garrison-ca-intermediate CertificateEnds certificate-ends.0000000000000000.1d",
		}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// expectWarning waits for the one Event about a Secret of the CA.
func (l lab) expectWarning(t *testing.T, secret *corev1.Secret) {
	t.Helper()
	var found []corev1.Event
	l.eventually(t, "the Event that the CA ends", func(ctx context.Context) error {
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
