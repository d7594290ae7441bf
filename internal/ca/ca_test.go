package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

var sleep = mesh.ServiceAccount{Namespace: "default", Name: "sleep", UID: "8f2c"}

const sleepID = "spiffe://cluster.local/ns/default/sa/sleep"

// open returns an authority over a fresh root that was made at rootBirth.
func open(t testing.TB, rootBirth time.Time, o Options) (*Authority, *corev1.Secret) {
	t.Helper()
	secret, err := NewRoot(RootOptions{TrustDomain: o.TrustDomain}, rootBirth)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(secret, o)
	if err != nil {
		t.Fatal(err)
	}
	return a, secret
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsa2048 is made once: its generation is slow.
var rsa2048 = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func ed25519Key(t testing.TB) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// csr returns a CSR in PEM.
func csr(t testing.TB, key crypto.Signer, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return inPEM("CERTIFICATE REQUEST", der)
}

// csrFor returns a CSR for these URIs with a fresh key on P-256.
func csrFor(t testing.TB, uris ...string) string {
	t.Helper()
	return csr(t, ecdsaKey(t, elliptic.P256()), x509.CertificateRequest{URIs: urls(t, uris...)})
}

func inPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func urls(t testing.TB, uris ...string) (out []*url.URL) {
	t.Helper()
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// parseLeaf reads the one certificate in PEM.
func parseLeaf(t testing.TB, text string) *x509.Certificate {
	t.Helper()
	certs, err := parseCertificates([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 1 {
		t.Fatalf("%d certificates, want one", len(certs))
	}
	return certs[0]
}

// expectLeaf holds a certificate that came out to all that a verifier relies on,
// by other means than the code under test: it verifies by the bundle through what lies
// between, names id and the DNS names and nothing else, and can sign nothing.
func expectLeaf(
	t testing.TB, leaf *x509.Certificate, bundle, id string, dns []string, now time.Time, between ...*x509.Certificate,
) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle)) {
		t.Fatal("bundle without certificates")
	}
	intermediates := x509.NewCertPool()
	for _, c := range between {
		intermediates.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			t.Errorf("usage %v: %v", usage, err)
		}
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
		t.Errorf("URIs %v, want %s", leaf.URIs, id)
	}
	if !slices.Equal(leaf.DNSNames, dns) || len(leaf.EmailAddresses)+len(leaf.IPAddresses) > 0 {
		t.Errorf("names %v %v %v, want %v", leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses, dns)
	}
	if leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("may sign certificates")
	}
	if leaf.Subject.String() != "" {
		t.Errorf("subject %q, want none", leaf.Subject)
	}
	for _, e := range leaf.Extensions {
		if e.Id.String() == "2.5.29.17" && !e.Critical {
			t.Error("names are not critical though the subject is empty")
		}
	}
}

func mustID(t testing.TB, uri string) identity.ID {
	t.Helper()
	id, err := identity.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func wantError(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one about %q", part)
	} else if !strings.Contains(err.Error(), part) {
		t.Errorf("error %q, want one about %q", err, part)
	}
}
