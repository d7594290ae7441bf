package ca

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestOriginOID(t *testing.T) {
	if got := originOID().String(); got != mesh.OriginOID {
		t.Errorf("%s, want %s", got, mesh.OriginOID)
	}
}

func TestOrigin(t *testing.T) {
	for _, o := range []leafOrigin{
		{byToken, "8f2c", "p1", noon},
		{byToken, "8f2c", "", noon},
		{byNode, "", "p1", noon},
		{byToken, strings.Repeat("x", maxUID), strings.Repeat("y", maxUID), noon},
	} {
		der, err := o.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseOrigin(der)
		if err != nil || got != o {
			t.Errorf("%+v comes back as %+v, %v", o, got, err)
		}
	}
	for name, o := range map[string]leafOrigin{
		"no kind":           {0, "8f2c", "p1", noon},
		"kind to come":      {3, "8f2c", "p1", noon},
		"token of nobody":   {byToken, "", "p1", noon},
		"long UID":          {byToken, strings.Repeat("x", maxUID+1), "p1", noon},
		"UID of two words":  {byToken, "8f2c", "p 1", noon},
		"UID not in ASCII":  {byToken, "8f2c", "ü", noon},
		"no time":           {byToken, "8f2c", "p1", time.Time{}},
		"after the year 10": {byToken, "8f2c", "p1", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, err := o.encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestParseOriginRefuses(t *testing.T) {
	good := encoded(t, leafOrigin{byToken, "8f2c", "p1", noon})
	marshal := func(v any) []byte {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, der := range map[string][]byte{
		"nothing":            nil,
		"something else":     {5, 0},
		"more behind it":     append(bytes.Clone(good), 0),
		"cut off":            good[:len(good)-1],
		"version to come":    marshal(originDER{2, 1, "8f2c", "p1", noon}),
		"kind to come":       marshal(originDER{1, 3, "8f2c", "p1", noon}),
		"a time with a zone": bytes.Replace(good, []byte("Z"), []byte("+0100"), 1),
		"another field": marshal(struct {
			Version, Kind int
			Account, Pod  string    `asn1:"utf8"`
			Proven        time.Time `asn1:"generalized"`
			More          int
		}{1, 1, "8f2c", "p1", noon, 1}),
		"another string type": bytes.Replace(good, []byte{12, 4}, []byte{19, 4}, 1),
	} {
		o, err := parseOrigin(der)
		if err == nil {
			t.Errorf("%s: %+v", name, o)
		}
		if name == "version to come" {
			wantError(t, err, "version 2, not 1")
		}
	}
}

// FuzzParseOrigin holds that an origin has one encoding.
func FuzzParseOrigin(f *testing.F) {
	f.Add(encoded(f, leafOrigin{byToken, "8f2c", "p1", noon}))
	f.Add(encoded(f, leafOrigin{byNode, "", "", noon}))
	f.Add([]byte{5, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		o, err := parseOrigin(der)
		if err != nil {
			return
		}
		again, err := o.encode()
		if err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x is read as %+v, which is written as %x, %v", der, o, again, err)
		}
	})
}

// The issuer looks whether the extension is what it asked for, to the byte.
func TestIssuedOriginIsCompared(t *testing.T) {
	a, _ := open(t, noon, Options{})
	i := a.current.Load()
	one, other := names{id: mustID(t, sleepID), origin: encoded(t, leafOrigin{byToken, "8f2c", "p1", noon})}, names{id: mustID(t, sleepID)}
	other.origin = encoded(t, leafOrigin{byToken, "8f2c", "p2", noon})
	cert, err := i.issue(one, mustParse(t, csrFor(t)), noon, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range cert.leaf.Extensions {
		if e.Id.String() == mesh.OriginOID && e.Critical {
			t.Error("the extension is critical: nobody else could verify the certificate")
		}
	}
	if d := cmp.Diff(one.origin, originIn(cert.leaf)); d != "" {
		t.Error(d)
	}
	if err := one.check(cert.leaf); err != nil {
		t.Error(err)
	}
	wantError(t, other.check(cert.leaf), "another origin")
	wantError(t, names{id: one.id}.check(cert.leaf), "another origin")
	wantError(t, one.check(signLeaf(t, a, names{id: one.id}, noon).chain[0]), "another origin")

	critical := *cert.leaf
	critical.Extensions = append([]pkix.Extension(nil), cert.leaf.Extensions...)
	for n := range critical.Extensions {
		if critical.Extensions[n].Id.String() == mesh.OriginOID {
			critical.Extensions[n].Critical = true
		}
	}
	wantError(t, checkProfile(&critical), "critical is true")
}

// What a CSR asks for in the way of extensions goes nowhere, ours included.
func TestOriginIsNotTakenFromCSRs(t *testing.T) {
	a, _ := open(t, noon, Options{})
	text := csr(t, ecdsaKey(t, elliptic.P256()), x509.CertificateRequest{ExtraExtensions: []pkix.Extension{
		{Id: originOID(), Value: encoded(t, leafOrigin{byToken, "8f2c", "p1", noon})},
	}})
	cert, err := a.current.Load().issue(names{id: mustID(t, sleepID)}, mustParse(t, text), noon, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if originIn(cert.leaf) != nil {
		t.Error("the caller wrote its own origin")
	}
}
