package ca

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Whoever bars Citadel's own account gets what can be had: nobody who asks is it any more. Its
// Secret stays and is renewed, for all others are served by it, and what is not done is said.
func TestCitadelIsNotRevokedFromItself(t *testing.T) {
	own := mesh.ServiceAccount{Namespace: "istio-system", Name: "istio-citadel-service-account", UID: "1"}
	const id = "spiffe://cluster.local/ns/istio-system/sa/istio-citadel-service-account"
	asCitadel := func(context.Context, string) (Caller, error) {
		return Caller{Account: own, PodUID: "p1", How: ProofReview}, nil
	}
	for name, c := range map[string]struct {
		before string
		served bool // the Secret from before is good still
		said   bool
		asked  codes.Code
	}{
		"for good":          {"", true, true, codes.PermissionDenied},
		"until next year":   {time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339), true, true, codes.PermissionDenied},
		"up to a while ago": {time.Now().Add(-time.Minute).UTC().Format(time.RFC3339), false, false, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRevocations(RevocationsOptions{Own: mesh.ServiceAccount{Namespace: own.Namespace, Name: own.Name}})
			if _, err := r.Set(nil); err != nil {
				t.Fatal(err)
			}
			a, _ := open(t, time.Now().Add(-time.Hour), Options{Revocations: r})
			registry := prometheus.NewRegistry()
			service := NewService(a, asCitadel, ServiceOptions{Metrics: NewMetrics(registry, a)})
			old := newSecret(t, a, own, time.Now().Add(-time.Hour))

			entry := "- {id: " + id + ", reason: x"
			if c.before != "" {
				entry += ", before: " + c.before
			}
			others := "}\n- {id: " + sleepID + ", reason: x}"
			if _, err := r.Set(&corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: entry + others}}); err != nil {
				t.Fatal(err)
			}
			if a.Basis(own).Barred || !a.Basis(sleep).Barred {
				t.Errorf("its Secret is to go: %+v; others': %+v", a.Basis(own), a.Basis(sleep))
			}
			if _, err := a.CheckSecret(own, old, time.Now()); (err == nil) != c.served {
				t.Errorf("the Secret from before: %v", err)
			}
			if _, err := a.CheckSecret(own, newSecret(t, a, own, time.Now()), time.Now()); err != nil {
				t.Errorf("a new Secret: %v", err)
			}
			if _, err := a.NewSecret(sleep, time.Now()); err == nil {
				t.Error("another account's Secret was made")
			}
			if _, err := obtain(t, bearing(t, token), service); codeOf(err) != c.asked {
				t.Errorf("who asks for it gets %v, want %s", err, c.asked)
			}
			said := strings.Contains(strings.Join(r.Notices(time.Now()), "; "), id+" is Citadel's own")
			if said != c.said || (len(r.Spared(time.Now())) > 0) != c.said {
				t.Errorf("notices %q, spared %q", r.Notices(time.Now()), r.Spared(time.Now()))
			}
			if err := testutil.GatherAndCompare(registry, strings.NewReader(fmt.Sprintf(`
# HELP citadel_server_revocations_not_applied 1 while the list of the revoked cannot be read to the letter, or bars what Citadel itself serves as.
# TYPE citadel_server_revocations_not_applied gauge
citadel_server_revocations_not_applied %d
`, map[bool]int{true: 1}[c.said])), "citadel_server_revocations_not_applied"); err != nil {
				t.Error(err)
			}
		})
	}
}

// By a clock that is ahead Citadel's own account is shut out until a time that is still to
// come: its Secret is spared until then, and no longer.
func TestSparedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := mesh.ServiceAccount{Namespace: "istio-system", Name: "istio-citadel-service-account"}
		r := NewRevocations(RevocationsOptions{Own: own})
		a, _ := open(t, time.Now().Add(-time.Hour), Options{Revocations: revocationsSet(t, r, nil)})
		secret := newSecret(t, a, own, time.Now())
		before := time.Now().Add(2 * time.Second)
		text := "- {id: spiffe://cluster.local/ns/istio-system/sa/istio-citadel-service-account, reason: x, before: " +
			before.UTC().Format(time.RFC3339Nano) + "}"
		revocationsSet(t, r, &corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: text}})
		spared := a.Basis(own)
		if _, err := a.CheckSecret(own, secret, time.Now()); err != nil {
			t.Errorf("at first: %v", err)
		}
		if notices := strings.Join(r.Notices(time.Now()), "; "); !strings.Contains(notices, "which is still to come") {
			t.Errorf("notices %q", notices)
		}
		time.Sleep(3 * time.Second)
		if _, err := a.CheckSecret(own, secret, time.Now()); !errors.Is(err, errRevoked) {
			t.Errorf("then: %v", err)
		}
		if a.Basis(own) == spared {
			t.Error("nothing tells that it is to be looked at again")
		}
		if notices := r.Notices(time.Now()); len(notices) > 0 {
			t.Errorf("notices %q", notices)
		}
	})
}

func revocationsSet(t *testing.T, r *Revocations, configMap *corev1.ConfigMap) *Revocations {
	t.Helper()
	if _, err := r.Set(configMap); err != nil {
		t.Fatal(err)
	}
	return r
}
