package ca

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func revocations(t testing.TB, text string) *Revocations {
	t.Helper()
	r := new(Revocations)
	if _, err := r.Set(&corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: text}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRevokedGetNothing(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Rule
	}{
		"the identity":                    {"- {id: " + sleepID + ", reason: x}", RuleRevoked},
		"of a trust domain spelled wrong": {"- {id: spiffe://cluster.locol/ns/default/sa/sleep, reason: x}", RuleRevoked},
		"another identity":                {"- {id: " + httpbinID + ", reason: x}", ""},
		"until yesterday":                 {"- {id: " + sleepID + ", reason: x, before: " + time.Now().Add(-24*time.Hour).UTC().Format(time.RFC3339) + "}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var kept book
			a, _ := open(t, time.Now(), Options{Revocations: revocations(t, c.text), Recorder: &kept})
			var gate door
			_, err := obtain(t, bearing(t, token), NewService(a, asSleep, ServiceOptions{Gate: &gate}))
			if taken := len(gate.who) > 0; taken != (c.want == "") {
				t.Errorf("took a turn: %t", taken)
			}
			_, secretErr := a.NewSecret(sleep, time.Now())
			if c.want == "" {
				if err != nil || secretErr != nil {
					t.Errorf("%v, %v", err, secretErr)
				}
				return
			}
			expectRefusal(t, err, codes.PermissionDenied, "revoked")
			kept.expectRefusal(t, err, c.want)
			wantError(t, secretErr, "revoked: "+sleepID+": x")
		})
	}
}

// Revoked as of now, a certificate renews no more, until a token starts anew; and what
// lies in Secrets is made again.
func TestRevokedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := revocations(t, "")
		a, _ := open(t, time.Now(), Options{Revocations: r})
		service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
		h := mustObtain(t, bearing(t, token), service)
		secret := newSecret(t, a, sleep, time.Now())
		time.Sleep(time.Hour)
		h = mustObtain(t, shown(t.Context(), "", h.chain...), service)
		if _, err := a.CheckSecret(sleep, secret, time.Now()); err != nil {
			t.Error(err)
		}
		now := time.Now()
		data, err := AddRevocation(nil, Revocation{ID: sleepID, Reason: "x", Before: &now})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Set(&corev1.ConfigMap{Data: data}); err != nil {
			t.Fatal(err)
		}
		_, err = obtain(t, shown(t.Context(), "", h.chain...), service)
		expectRefusal(t, err, codes.PermissionDenied, "revoked")
		_, err = a.CheckSecret(sleep, secret, time.Now())
		wantError(t, err, "revoked")
		time.Sleep(time.Second)
		h = mustObtain(t, bearing(t, token), service)
		mustObtain(t, shown(t.Context(), "", h.chain...), service)
		if _, err := a.CheckSecret(sleep, newSecret(t, a, sleep, time.Now()), time.Now()); err != nil {
			t.Errorf("what was made after: %v", err)
		}
	})
}

// What is revoked changes the basis of the Secrets that it may concern, and of no others.
func TestRevocationsInBasis(t *testing.T) {
	other := mesh.ServiceAccount{Namespace: "default", Name: "other", UID: "1"}
	const before = ", before: '2026-01-02T03:04:05Z'"
	bases := map[Basis]string{}
	for _, c := range []struct {
		text           string
		barred, others bool // sleep is; others have another basis, too
	}{
		{"", false, false},
		{"- {id: " + sleepID + ", reason: x}", true, false},
		{"- {id: " + sleepID + ", reason: x" + before + "}", false, false},
		{"- {id: " + sleepID + ", reason: x" + before + "}\n- {serial: '7', reason: x}", false, true},
		{"- {serial: '7', reason: x}", false, true},
		{"- {serial: '7', reason: x}\n- {serial: 8a, reason: x}", false, true},
	} {
		a, _ := open(t, time.Now(), Options{Revocations: revocations(t, c.text)})
		got, others := a.Basis(sleep), a.Basis(other)
		if got.Barred != c.barred || others.Barred || (others.Revoked != "") != c.others {
			t.Errorf("%s: %+v, of others %+v", c.text, got, others)
		}
		if again := a.Basis(sleep); again != got {
			t.Errorf("%s: %+v, then %+v", c.text, got, again)
		}
		got.Roots, got.Chain = "", "" // of another root each
		if same, known := bases[got]; known {
			t.Errorf("%q has the basis of %q: %+v", c.text, same, got)
		}
		bases[got] = c.text
	}
	a, _ := open(t, time.Now(), Options{Revocations: new(Revocations)})
	if got := a.Basis(sleep); got.Barred || got.Revoked != "" {
		t.Errorf("unread: %+v", got)
	}
}

func TestRevokedSerial(t *testing.T) {
	r := revocations(t, "")
	a, _ := open(t, time.Now(), Options{Revocations: r})
	service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
	bad, good := mustObtain(t, bearing(t, token), service), mustObtain(t, bearing(t, token), service)
	secret := newSecret(t, a, sleep, time.Now())
	inSecret := parseLeaf(t, string(secret.Data[mesh.CertChain]))
	if _, err := r.Set(&corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: "" +
		"- {serial: '" + strings.ToUpper(bad.chain[0].SerialNumber.Text(16)) + "', reason: x}\n" +
		"- {serial: '" + inSecret.SerialNumber.Text(16) + "', reason: in a backup}\n"}}); err != nil {
		t.Fatal(err)
	}
	_, err := obtain(t, shown(t.Context(), "", bad.chain...), service)
	expectRefusal(t, err, codes.PermissionDenied, "revoked")
	mustObtain(t, shown(t.Context(), "", good.chain...), service)
	mustObtain(t, shown(t.Context(), token, bad.chain...), service) // by the token, that is
	_, err = a.CheckSecret(sleep, secret, time.Now())
	wantError(t, err, "revoked: certificate "+inSecret.SerialNumber.Text(16)+": in a backup")
}

// A node proxy that is revoked gets nothing for others, and a revoked pod nothing through
// its proxy.
func TestRevokedImpersonation(t *testing.T) {
	for _, id := range []string{ztunnelID, httpbinID} {
		a, _ := open(t, time.Now(), Options{Revocations: revocations(t, "- {id: "+id+", reason: x}")})
		_, err := impersonate(t, bearing(t, token), trusting(a, asZtunnel, node()), httpbinID)
		expectRefusal(t, err, codes.PermissionDenied, "revoked")
	}
}

// Before revocations are read nobody is issued anything; after that a spoilt ConfigMap
// changes nothing, and one that is gone revokes nobody.
func TestRevocationsUnreadSpoiltAndGone(t *testing.T) {
	r := new(Revocations)
	a, _ := open(t, time.Now(), Options{})
	secret := newSecret(t, a, sleep, time.Now())
	a.options.Revocations = r
	service := NewService(a, asSleep, ServiceOptions{})
	_, err := obtain(t, bearing(t, token), service)
	expectRefusal(t, err, codes.Unavailable, "certificates cannot be issued now")
	if r.Ready() == nil {
		t.Error("ready")
	}
	if _, err := a.CheckSecret(sleep, secret, time.Now()); err != nil {
		t.Errorf("a good Secret is spoilt: %v", err)
	}
	set := func(c *corev1.ConfigMap, want int, spoilt bool) {
		t.Helper()
		if n, err := r.Set(c); n != want || (err != nil) != spoilt {
			t.Errorf("Set = %d, %v", n, err)
		}
	}
	set(&corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: "- {id: " + sleepID + ", reason: x}"}}, 1, false)
	set(&corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: "- {id: " + sleepID + "}"}}, 0, true)
	set(&corev1.ConfigMap{BinaryData: map[string][]byte{mesh.RevocationsKey: nil}}, 0, true)
	if _, err := obtain(t, bearing(t, token), service); codeOf(err) != codes.PermissionDenied || r.Ready() != nil {
		t.Errorf("a spoilt ConfigMap let the revoked in: %v", err)
	}
	if notices := r.Notices(time.Now()); len(notices) != 1 || !strings.Contains(notices[0], "binary data") {
		t.Errorf("notices of a spoilt ConfigMap: %q", notices)
	}
	set(nil, 0, false)
	if notices := append(r.Notices(time.Now()), (*Revocations)(nil).Notices(time.Now())...); len(notices) > 0 {
		t.Errorf("notices: %q", notices)
	}
	mustObtain(t, bearing(t, token), service)
	if err := (*Revocations)(nil).Ready(); err != nil {
		t.Error(err)
	}
}

// Revocations that nobody has read for longer than the window stop everything, since one that
// was made meanwhile is not among them; and Secrets that are there are good as before.
func TestRevocationsGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRevocations(RevocationsOptions{Window: 30 * time.Second})
		var kept book
		a, _ := open(t, time.Now(), Options{Recorder: &kept, Revocations: r})
		registry := prometheus.NewRegistry()
		service := NewService(a, asSleep, ServiceOptions{Metrics: NewMetrics(registry, a)})
		refused := func(what string) {
			t.Helper()
			_, err := obtain(t, bearing(t, token), service)
			if expectRefusal(t, err, codes.Unavailable, "certificates cannot be issued now"); t.Failed() {
				t.Error(what)
			}
			if last := kept.entries[len(kept.entries)-1]; last.Rule != string(RuleRevocations) {
				t.Errorf("%s: rule %s", what, last.Rule)
			}
		}
		if _, err := r.Set(nil); err != nil {
			t.Fatal(err)
		}
		refused("before they are confirmed")
		r.Confirm(time.Now())
		mustObtain(t, bearing(t, token), service)
		secret := newSecret(t, a, sleep, time.Now())

		time.Sleep(30 * time.Second)
		mustObtain(t, bearing(t, token), service)
		if notices := r.Notices(time.Now()); len(notices) > 0 {
			t.Errorf("within the window: %q", notices)
		}
		time.Sleep(time.Second)
		refused("a second after the window")
		if _, err := a.NewSecret(sleep, time.Now()); err == nil {
			t.Error("a Secret was made by revocations that are too old")
		}
		if _, err := a.CheckSecret(sleep, secret, time.Now()); err != nil {
			t.Errorf("a good Secret is spoilt: %v", err)
		}
		if d := cmp.Diff([]string{"nothing is issued: revocations were last read 31s ago, at most 30s"}, r.Notices(time.Now())); d != "" || r.Ready() != nil {
			t.Error(r.Ready(), d)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP citadel_server_revocations_age_seconds How old the list of the revoked may be at most; beyond the revocation window nothing is issued.
# TYPE citadel_server_revocations_age_seconds gauge
citadel_server_revocations_age_seconds 31
`), "citadel_server_revocations_age_seconds"); err != nil {
			t.Error(err)
		}

		// Who was revoked is told so, however long ago that was.
		if _, err := r.Set(&corev1.ConfigMap{Data: map[string]string{mesh.RevocationsKey: "- {id: " + sleepID + ", reason: x}"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := obtain(t, bearing(t, token), service); codeOf(err) != codes.PermissionDenied {
			t.Errorf("revoked: %v", err)
		}
		if _, err := r.Set(nil); err != nil {
			t.Fatal(err)
		}
		r.Confirm(time.Now())
		mustObtain(t, bearing(t, token), service)
	})
}
