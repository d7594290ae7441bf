package ca

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
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

func TestParseRevocations(t *testing.T) {
	before := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	got, err := ParseRevocations(map[string]string{mesh.RevocationsKey: `
- id: spiffe://cluster.local/ns/default/sa/sleep
  reason: node n1 was broken into
  before: 2026-10-01T12:00:00Z
- serial: "0A:1b"
  reason: key in a log
`})
	want := []Revocation{{ID: sleepID, Reason: "node n1 was broken into", Before: &before}, {Serial: "a1b", Reason: "key in a log"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
	for name, c := range map[string]struct{ key, text, want string }{
		"another key":          {"revocation.yaml", "[]", "revocation.yaml: not a key"},
		"not YAML":             {"", "\t{", "revocations.yaml: "},
		"no list":              {"", "id: x", "revocations.yaml: "},
		"second document":      {"", "[]\n---\n- {id: " + sleepID + ", reason: x}", "a second document"},
		"unknown field":        {"", "- {id: " + sleepID + ", reason: x, until: now}", `unknown field "until"`},
		"no reason":            {"", "- {id: " + sleepID + ", reason: ' '}", "entry 1: needs a reason"},
		"long reason":          {"", "- {id: " + sleepID + ", reason: " + strings.Repeat("x", 501) + "}", "reason of 501 bytes, at most 500"},
		"neither":              {"", "- {reason: x}", "either an id or a serial"},
		"both":                 {"", "- {id: " + sleepID + ", serial: a, reason: x}", "either an id or a serial"},
		"not an id":            {"", "- {id: default/sleep, reason: x}", "does not begin with spiffe://"},
		"not hex":              {"", "- {serial: xyz, reason: x}", `serial "xyz"`},
		"serial as a number":   {"", "- {serial: 0123, reason: x}", "cannot unmarshal number"},
		"reason as a truth":    {"", "- {serial: a, reason: y}", "cannot unmarshal bool"},
		"zero":                 {"", "- {serial: '0', reason: x}", `serial "0"`},
		"long serial":          {"", "- {serial: '" + strings.Repeat("a", 41) + "', reason: x}", "not a number in hex"},
		"before with a serial": {"", "- {serial: a, reason: x, before: 2026-10-01T12:00:00Z}", "before: only for an id"},
	} {
		key := mesh.RevocationsKey
		if c.key != "" {
			key = c.key
		}
		_, err := ParseRevocations(map[string]string{key: c.text})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantError(t, err, c.want)
	}
	for _, data := range []map[string]string{nil, {}, {mesh.RevocationsKey: ""}} {
		if got, err := ParseRevocations(data); len(got) > 0 || err != nil {
			t.Errorf("%v: %v, %v", data, got, err)
		}
	}
}

func TestAddAndRemoveRevocation(t *testing.T) {
	data, err := AddRevocation(nil, Revocation{ID: sleepID, Reason: "first"})
	if err != nil {
		t.Fatal(err)
	}
	one := data[mesh.RevocationsKey]
	data, err = AddRevocation(data, Revocation{Serial: "0x0A", Reason: "other"})
	if err != nil {
		t.Fatal(err)
	}
	two := data[mesh.RevocationsKey]
	data, err = AddRevocation(data, Revocation{ID: sleepID, Reason: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseRevocations(data); err != nil || len(got) != 2 || got[1].Reason != "second" || got[0].Serial != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	if two == one || two == data[mesh.RevocationsKey] {
		t.Error("data was changed in place")
	}
	data, err = AddRevocation(data, Revocation{Serial: "b", Reason: "beside a"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseRevocations(data); err != nil || len(got) != 3 {
		t.Errorf("another serial: %+v, %v", got, err)
	}
	if data, err = RemoveRevocation(data, Revocation{Serial: "b"}); err != nil {
		t.Fatal(err)
	}
	if data, err = RemoveRevocation(data, Revocation{Serial: "a"}); err != nil {
		t.Fatal(err)
	}
	if got, err := ParseRevocations(data); err != nil || len(got) != 1 || got[0].ID != sleepID {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = RemoveRevocation(data, Revocation{Serial: "a"})
	wantError(t, err, "a is not revoked")
	_, err = AddRevocation(data, Revocation{Serial: "a"})
	wantError(t, err, "needs a reason")
	_, err = AddRevocation(map[string]string{mesh.RevocationsKey: "- {}"}, Revocation{Serial: "a", Reason: "x"})
	wantError(t, err, "entry 1")
}

// FuzzParseRevocations holds that what is accepted comes back the same after an edit.
func FuzzParseRevocations(f *testing.F) {
	f.Add("- {id: " + sleepID + ", reason: x}")
	f.Add("- {serial: 'aa:bb', reason: x}\n- {serial: cc, reason: y}")
	f.Fuzz(func(t *testing.T, text string) {
		before, err := ParseRevocations(map[string]string{mesh.RevocationsKey: text})
		if err != nil {
			return
		}
		data, err := AddRevocation(map[string]string{mesh.RevocationsKey: text}, Revocation{Serial: "ffffffffffffffff", Reason: "x"})
		if err != nil {
			t.Fatal(err)
		}
		after, err := ParseRevocations(data)
		if err != nil || len(after) == 0 || len(after) > len(before)+1 {
			t.Errorf("%q: %v, %v", text, after, err)
		}
	})
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
