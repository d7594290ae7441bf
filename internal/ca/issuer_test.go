package ca

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"log"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func mustParse(t testing.TB, csr string) Request {
	t.Helper()
	r, err := ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIssue(t *testing.T) {
	a, _ := open(t, noon, Options{})
	// All that a CSR can ask for beside its key, which must all be gone.
	greedy := x509.CertificateRequest{
		Subject:        pkix.Name{CommonName: "istiod.istio-system.svc", Organization: []string{"root"}},
		DNSNames:       []string{"istiod.istio-system.svc"},
		EmailAddresses: []string{"a@b"},
		IPAddresses:    []net.IP{net.IPv4(10, 0, 0, 1)},
		URIs:           urls(t, sleepID),
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}},     // CA
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},              // certificate signing
			{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 10, 6, 8, 43, 6, 1, 5, 5, 7, 3, 3}}, // code signing
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 44363, 44}, Value: []byte{5, 0}},                     // delegation, which cfssl knows
			{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: []byte{0x30, 0}},                 // name constraints
		},
	}
	for name, c := range map[string]struct {
		key   crypto.Signer
		usage x509.KeyUsage
	}{
		"P-256": {ecdsaKey(t, elliptic.P256()), x509.KeyUsageDigitalSignature},
		"P-384": {ecdsaKey(t, elliptic.P384()), x509.KeyUsageDigitalSignature},
		"RSA":   {rsa2048(), x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment},
	} {
		t.Run(name, func(t *testing.T) {
			n := names{id: mustID(t, sleepID), dns: []string{"a.b.svc", "a"}}
			got, err := a.current.Load().issue(n, mustParse(t, csr(t, c.key, greedy)), noon, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasSuffix(got.pem, []byte("\n")) || !bytes.HasSuffix(got.bundle, []byte("\n")) {
				t.Error("PEM does not end in a newline")
			}
			leaf := parseLeaf(t, string(got.pem))
			expectLeaf(t, leaf, string(got.bundle), sleepID, n.dns, noon)
			if leaf.KeyUsage != c.usage {
				t.Errorf("key usage %b, want %b", leaf.KeyUsage, c.usage)
			}
			if len(leaf.Extensions) != 6 {
				t.Errorf("%d extensions, want 6", len(leaf.Extensions))
			}
			if !equalKeys(leaf.PublicKey, c.key.Public()) {
				t.Error("another key")
			}
		})
	}
}

func TestIssueRefusesBadSignatures(t *testing.T) {
	a, _ := open(t, noon, Options{})
	mine, yours := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P256())
	block, _ := pem.Decode([]byte(csr(t, mine, x509.CertificateRequest{})))
	stolen := bytes.Clone(block.Bytes)
	was, err := x509.MarshalPKIXPublicKey(mine.Public())
	if err != nil {
		t.Fatal(err)
	}
	becomes, err := x509.MarshalPKIXPublicKey(yours.Public())
	if err != nil {
		t.Fatal(err)
	}
	stolen = bytes.Replace(stolen, was, becomes, 1)
	spoilt := bytes.Clone(block.Bytes)
	spoilt[len(spoilt)-1] ^= 1
	for name, text := range map[string]string{
		"somebody else's key": inPEM("CERTIFICATE REQUEST", stolen),
		"spoilt signature":    inPEM("CERTIFICATE REQUEST", spoilt),
		"RSA, none":           rsaCSR(t, oddBits(2048), 65537),
	} {
		_, err := a.current.Load().issue(names{id: mustID(t, sleepID)}, mustParse(t, text), noon, time.Hour)
		if !errors.Is(err, errPossession) {
			t.Errorf("%s: %v, want %v", name, err, errPossession)
		}
	}
}

func TestLifetime(t *testing.T) {
	a, _ := open(t, noon, Options{}) // valid from 11:58 for ten years
	i := a.current.Load()
	end := noon.Add(DefaultRootTTL)
	cases := map[string]struct {
		now          time.Time
		ttl          time.Duration
		begins, ends time.Time
	}{
		"plain":                 {noon.Add(time.Hour), 24 * time.Hour, noon.Add(58 * time.Minute), noon.Add(25 * time.Hour)},
		"fractions are cut":     {noon.Add(time.Hour + 900*time.Millisecond), time.Hour, noon.Add(58 * time.Minute), noon.Add(2 * time.Hour)},
		"issuer just born":      {noon.Add(-time.Minute), time.Hour, noon.Add(-2 * time.Minute), noon.Add(59 * time.Minute)},
		"clamped":               {end.Add(-time.Hour), 24 * time.Hour, end.Add(-62 * time.Minute), end},
		"as long as it lasts":   {end.Add(-24 * time.Hour), 24 * time.Hour, end.Add(-24*time.Hour - 2*time.Minute), end},
		"short ones to the end": {end.Add(-time.Minute), time.Minute, end.Add(-3 * time.Minute), end},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			begins, ends, err := i.lifetime(c.now, c.ttl)
			if err != nil {
				t.Fatal(err)
			}
			if !begins.Equal(c.begins) || !ends.Equal(c.ends) {
				t.Errorf("%v to %v, want %v to %v", begins, ends, c.begins, c.ends)
			}
		})
	}
	for name, now := range map[string]time.Time{
		"not yet":         noon.Add(-3 * time.Minute),
		"too little left": end.Add(-9 * time.Minute),
		"over":            end.Add(time.Second),
	} {
		if begins, ends, err := i.lifetime(now, 24*time.Hour); !errors.Is(err, errIssuer) {
			t.Errorf("%s: %v to %v, %v", name, begins, ends, err)
		}
	}
}

// TestInspectRefuses signs what a broken signer might, with the issuer's own key.
func TestInspectRefuses(t *testing.T) {
	a, secret := open(t, noon, Options{})
	i := a.current.Load()
	caKey, err := parsePrivateKey(secret.Data[mesh.CAKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	key := ecdsaKey(t, elliptic.P256())
	n := names{id: mustID(t, sleepID), dns: []string{"a", "b"}}
	otherRoot, otherSecret := open(t, noon, Options{})
	otherKey, err := parsePrivateKey(otherSecret.Data[mesh.CAKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	sign := func(t *testing.T, change func(*x509.Certificate), parent *x509.Certificate, signer, holder crypto.Signer) []byte {
		t.Helper()
		template := &x509.Certificate{
			SerialNumber:          new(big.Int).Lsh(big.NewInt(1), 100),
			NotBefore:             noon,
			NotAfter:              noon.Add(time.Hour),
			URIs:                  urls(t, sleepID),
			DNSNames:              n.dns,
			KeyUsage:              x509.KeyUsageDigitalSignature,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true,
			SubjectKeyId:          []byte{1},
		}
		change(template)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, holder.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := func(*x509.Certificate) {}
	if _, err := i.inspect(sign(t, good, i.cert, caKey, key), n, key.Public()); err != nil {
		t.Fatalf("the certificate that all cases start from: %v", err)
	}

	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		want   string
	}{
		"no URI":          {func(c *x509.Certificate) { c.URIs = nil }, "URIs"},
		"two URIs":        {func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, "URIs"},
		"another URI":     {func(c *x509.Certificate) { c.URIs = urls(t, sleepID+"x") }, "URIs"},
		"more DNS names":  {func(c *x509.Certificate) { c.DNSNames = []string{"a", "b", "c"} }, "DNS names"},
		"fewer DNS names": {func(c *x509.Certificate) { c.DNSNames = nil }, "DNS names"},
		"address":         {func(c *x509.Certificate) { c.IPAddresses = []net.IP{{10, 0, 0, 1}} }, "addresses"},
		"e-mail":          {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }, "addresses"},
		"subject":         {func(c *x509.Certificate) { c.Subject.CommonName = "x" }, ""},
		"CA": {func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign },
			"is not marked as a leaf"},
		"no constraints": {func(c *x509.Certificate) { c.BasicConstraintsValid = false }, "is not marked as a leaf"},
		"key usage":      {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, "key usage"},
		"extended key usage": {func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] },
			"extended key usage"},
		"odd key usage": {func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
			"extended key usage"},
		"extension": {func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		}, "unexpected extension 1.2.3"},
		"short serial": {func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }, "serial number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := i.inspect(sign(t, c.change, i.cert, caKey, key), n, key.Public())
			wantError(t, err, c.want)
		})
	}
	t.Run("another key", func(t *testing.T) {
		_, err := i.inspect(sign(t, good, i.cert, caKey, rsa2048()), n, key.Public())
		wantError(t, err, "another key than requested")
	})
	t.Run("another issuer", func(t *testing.T) {
		_, err := i.inspect(sign(t, good, otherRoot.current.Load().cert, otherKey, key), n, key.Public())
		wantError(t, err, "another issuer")
	})
	t.Run("two certificates", func(t *testing.T) {
		der := sign(t, good, i.cert, caKey, key)
		_, err := i.inspect(append(der, der...), n, key.Public())
		wantError(t, err, "trailing data")
	})
}

// cfssl logs through the standard logger, a line for each signature that it makes itself:
// nothing of it may come through.
func TestSignerIsSilent(t *testing.T) {
	var out strings.Builder
	before := log.Writer()
	log.SetOutput(&out)
	defer log.SetOutput(before)
	a, _ := open(t, noon, Options{})
	if _, err := a.current.Load().issue(names{id: mustID(t, sleepID)}, mustParse(t, csrFor(t)), noon, time.Hour); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 0 {
		t.Errorf("logged %q", out.String())
	}
}

func TestExtensionOutsideProfile(t *testing.T) {
	a, _ := open(t, noon, Options{})
	i := *a.current.Load()
	i.policy = policy()
	i.policy.Default.ExtensionWhitelist = nil
	n, r := names{id: mustID(t, sleepID), origin: []byte{1}}, mustParse(t, csrFor(t))
	_, err := i.issue(n, r, noon, time.Hour)
	wantError(t, err, "extension "+mesh.OriginOID+": is not in the profile")
}

func TestOpenRefuses(t *testing.T) {
	_, good := open(t, noon, Options{})
	_, other := open(t, noon, Options{})
	leafSecret := func() map[string][]byte {
		a, err := Open(good, Options{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := a.NewSecret(sleep, noon)
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{
			mesh.CACertKey: s.Data[mesh.CertChain], mesh.CAKeyKey: s.Data[mesh.CertKey], mesh.RootKey: s.Data[mesh.CertRoot],
		}
	}()
	cert, key := good.Data[mesh.CACertKey], good.Data[mesh.CAKeyKey]
	below := rootOf(t, other).below(t, "below", nil)
	garbled := bytes.Replace(cert, []byte("\n"), []byte("\n!"), 1)
	for name, c := range map[string]struct {
		data map[string][]byte
		want string
	}{
		"empty":              {nil, "secret istio-system/istio-ca-secret: ca-cert.pem: no certificate"},
		"no key":             {map[string][]byte{mesh.CACertKey: cert}, "ca-key.pem: no PEM block"},
		"key of another":     {map[string][]byte{mesh.CACertKey: cert, mesh.CAKeyKey: other.Data[mesh.CAKeyKey]}, "signing key does not match"},
		"two keys":           {map[string][]byte{mesh.CACertKey: cert, mesh.CAKeyKey: append(bytes.Clone(key), key...)}, "more than one PEM block"},
		"two certificates":   {map[string][]byte{mesh.CACertKey: append(bytes.Clone(cert), cert...), mesh.CAKeyKey: key}, "2 certificates"},
		"garbled, then good": {map[string][]byte{mesh.CACertKey: append(garbled, cert...), mesh.CAKeyKey: key}, "ca-cert.pem: "},
		"key as certificate": {map[string][]byte{mesh.CACertKey: key, mesh.CAKeyKey: key}, "something else than certificates"},
		"leaf":               {leafSecret, "not that of a CA"},
		"root of another": {map[string][]byte{
			mesh.CACertKey: encodeCertificate(below.cert), mesh.CAKeyKey: keyText(t, below.key), mesh.RootKey: cert,
		}, "none of them signed it"},
	} {
		t.Run(name, func(t *testing.T) {
			secret := good.DeepCopy()
			secret.Data = c.data
			_, err := Open(secret, Options{})
			wantError(t, err, c.want)
			if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
				t.Errorf("the error quotes a key: %v", err)
			}
		})
	}
	_, err := Open(good, Options{DefaultTTL: 100 * 24 * time.Hour})
	wantError(t, err, "more than the longest one")
}

// Citadel of Istio 1.1 left root-cert.pem empty and its key as RSA in PKCS#1.
func TestOpenReadsOlderSecrets(t *testing.T) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"cluster.local"}},
		NotBefore: noon, NotAfter: noon.Add(time.Hour * 24 * 365), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, rsa2048().Public(), rsa2048())
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{Data: map[string][]byte{
		mesh.CACertKey: []byte(inPEM("CERTIFICATE", der)),
		mesh.CAKeyKey:  []byte(inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048()))),
		mesh.RootKey:   {},
	}}
	a, err := Open(secret, Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := noon.Add(time.Hour)
	got, err := a.NewSecret(sleep, now)
	if err != nil {
		t.Fatal(err)
	}
	expectLeaf(t, parseLeaf(t, string(got.Data[mesh.CertChain])), string(a.Bundle()), sleepID, nil, now)
}
