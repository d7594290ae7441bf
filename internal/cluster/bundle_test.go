package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// authority signs certificates of a test.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, notAfter time.Time) authority {
	t.Helper()
	return issue(t, authority{}, x509.Certificate{NotAfter: notAfter, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
}

// issue makes a certificate, self-signed where there is no parent.
func issue(t *testing.T, parent authority, template x509.Certificate) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject.CommonName = rand.Text()
	if parent.cert == nil {
		parent.cert, parent.key = &template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert, key}
}

func TestParseBundle(t *testing.T) {
	a, b := certificate(t), certificate(t)
	both, err := parseBundle(slices.Concat(a, b))
	if err != nil || len(both) != 2 {
		t.Fatalf("two certificates: %d, %v", len(both), err)
	}
	for name, same := range map[string][]byte{
		"other order":         slices.Concat(b, a),
		"one twice":           slices.Concat(a, b, a),
		"comments and spaces": slices.Concat([]byte("# roots\n\n"), a, []byte("\n\n"), b, []byte("\n \n")),
	} {
		got, err := parseBundle(same)
		if err != nil || !slices.EqualFunc(got, both, bytes.Equal) {
			t.Errorf("%s: not the same bundle (%v)", name, err)
		}
	}
	for name, bad := range map[string][]byte{
		"empty":     nil,
		"text":      []byte("bundle\n"),
		"trailing":  slices.Concat(a, []byte("bundle\n")),
		"cut":       a[:len(a)-30],
		"key":       pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"not X.509": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
	} {
		if got, err := parseBundle(bad); err == nil {
			t.Errorf("%s: %d certificates", name, len(got))
		}
	}
}

// FuzzParseBundle holds that what parses means the same written out plainly.
func FuzzParseBundle(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, bundle []byte) {
		certificates, err := parseBundle(bundle)
		if err != nil {
			return
		}
		var plain []byte
		for _, der := range certificates {
			plain = append(plain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		again, err := parseBundle(plain)
		if err != nil || !slices.EqualFunc(again, certificates, bytes.Equal) {
			t.Errorf("%q: plain form differs (%v)", bundle, err)
		}
	})
}

func TestCheckBundle(t *testing.T) {
	const host = "injector.system.svc"
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	hour := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	root, other := newAuthority(t, hour(100)), newAuthority(t, hour(100))
	middle := issue(t, root, x509.Certificate{NotAfter: hour(50), IsCA: true, BasicConstraintsValid: true})
	leaf := x509.Certificate{NotBefore: hour(-2), NotAfter: hour(2), DNSNames: []string{host}}
	direct := issue(t, root, leaf).pem
	below := slices.Concat(issue(t, middle, leaf).pem, middle.pem)
	for name, c := range map[string]struct {
		bundle, chain []byte
		host          string
		now           time.Time
		want          string // "": trusted
	}{
		"issued by the root":      {root.pem, direct, host, now, ""},
		"through an intermediate": {root.pem, below, host, now, ""},
		"intermediate missing":    {root.pem, below[:strings.Index(string(below), "-----END")], host, now, "no certificate"},
		"one root of two":         {slices.Concat(other.pem, root.pem), direct, host, now, ""},
		"another root":            {other.pem, direct, host, now, "unknown authority"},
		"another host":            {root.pem, direct, "citadel.system.svc", now, "not citadel.system.svc"},
		"expired":                 {root.pem, direct, host, hour(3), "expired"},
		"not valid yet":           {root.pem, direct, host, hour(-3), "not yet valid"},
		"at no time":              {root.pem, direct, host, time.Time{}, ""},
		"no bundle":               {nil, direct, host, now, "CA bundle: no certificate"},
		"no chain":                {root.pem, nil, host, now, "certificate chain: no certificate"},
		"junk in the chain":       {root.pem, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), host, now, "certificate chain: x509"},
	} {
		err := CheckBundle(c.bundle, c.chain, c.host, c.now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestLook(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	hour := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	root, former := newAuthority(t, hour(100)), newAuthority(t, hour(10))
	served := issue(t, root, x509.Certificate{NotAfter: hour(1), DNSNames: []string{"nothing.nowhere.svc", "elsewhere.example.com"}}).pem
	both := slices.Concat(root.pem, former.pem)
	want, err := parseBundle(both)
	if err != nil {
		t.Fatal(err)
	}
	byURL := func(host string) admissionv1.MutatingWebhook {
		e := entry("url."+mesh.InjectorWebhookSuffix, both)
		e.ClientConfig.Service, e.ClientConfig.URL = nil, new("https://"+host+":8443/inject")
		return e
	}
	for name, c := range map[string]struct {
		entries []admissionv1.MutatingWebhook
		want    [][]byte
		served  []byte
		now     time.Time
		held    held
	}{
		"as it should be":     {entries: []admissionv1.MutatingWebhook{entry(ours1, both), byURL("elsewhere.example.com")}, held: held{entries: 2, notAfter: hour(10)}},
		"other certificates":  {entries: []admissionv1.MutatingWebhook{entry(ours1, root.pem)}, held: held{entries: 1, differing: []string{ours1}, notAfter: hour(100)}},
		"wrong authority":     {entries: []admissionv1.MutatingWebhook{entry(ours1, former.pem)}, held: held{entries: 1, differing: []string{ours1}, untrusting: []string{ours1}, why: cmpopts.AnyError, notAfter: hour(10)}},
		"junk":                {entries: []admissionv1.MutatingWebhook{entry(ours1, []byte("junk")), entry(ours2, nil)}, held: held{entries: 2, differing: []string{ours1, ours2}, untrusting: []string{ours1, ours2}, why: cmpopts.AnyError}},
		"wrong host":          {entries: []admissionv1.MutatingWebhook{byURL("another.example.com")}, held: held{entries: 1, untrusting: []string{"url." + mesh.InjectorWebhookSuffix}, why: cmpopts.AnyError, notAfter: hour(10)}},
		"served past its end": {entries: []admissionv1.MutatingWebhook{entry(ours1, both)}, now: hour(2), held: held{entries: 1, untrusting: []string{ours1}, why: cmpopts.AnyError, notAfter: hour(10)}},
		"nothing served":      {entries: []admissionv1.MutatingWebhook{entry(ours1, former.pem)}, served: []byte{}, held: held{entries: 1, differing: []string{ours1}, notAfter: hour(10)}},
		"nothing wanted yet":  {entries: []admissionv1.MutatingWebhook{entry(ours1, nil)}, want: [][]byte{}, served: []byte{}, held: held{entries: 1}},
		"somebody else's":     {entries: []admissionv1.MutatingWebhook{entry(foreign, nil)}},
	} {
		if c.want == nil {
			c.want = want
		}
		if c.served == nil {
			c.served = served
		}
		if c.now.IsZero() {
			c.now = now
		}
		w := webhook(c.entries...)
		before := w.DeepCopy()
		got := look(w, mesh.InjectorWebhookSuffix, c.want, c.served, c.now)
		if diff := cmp.Diff(c.held, got, cmp.AllowUnexported(held{}), cmpopts.EquateErrors()); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
		if !cmp.Equal(before, w) {
			t.Errorf("%s: the object was changed", name)
		}
	}
}
