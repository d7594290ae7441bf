package ca

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// authorityCert is a certificate with its key, for paths made by hand.
type authorityCert struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func rootOf(t testing.TB, secret *corev1.Secret) authorityCert {
	t.Helper()
	key, err := parsePrivateKey(secret.Data[mesh.CAKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	return authorityCert{parseLeaf(t, string(secret.Data[mesh.CACertKey])), key}
}

// below makes a CA that parent signed; change may spoil it.
func (parent authorityCert) below(t testing.TB, name string, change func(*x509.Certificate)) authorityCert {
	t.Helper()
	key := ecdsaKey(t, elliptic.P256())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: parent.cert.NotBefore, NotAfter: parent.cert.NotBefore.Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	return authorityCert{parseLeaf(t, inPEM("CERTIFICATE", der)), key}
}

func authorityOf(t testing.TB, path []*x509.Certificate, key crypto.Signer, roots []*x509.Certificate) *Authority {
	t.Helper()
	i, err := newIssuer(path, key, roots)
	if err != nil {
		t.Fatal(err)
	}
	a := &Authority{options: Options{}.withDefaults()}
	a.current.Store(i)
	return a
}

// openBelow returns an authority whose signer is two certificates below the root.
func openBelow(t testing.TB, birth time.Time) (*Authority, []*x509.Certificate) {
	t.Helper()
	_, secret := open(t, birth, Options{})
	root := rootOf(t, secret)
	middle := root.below(t, "middle", nil)
	last := middle.below(t, "last", nil)
	path := []*x509.Certificate{last.cert, middle.cert, root.cert}
	return authorityOf(t, path, last.key, path[2:]), path
}

// What is signed below a root carries all that a client needs who has but the root.
func TestChainInAnswersAndSecrets(t *testing.T) {
	now := time.Now()
	a, path := openBelow(t, now)
	service := NewService(a, asSleep, ServiceOptions{})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	out, err := service.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t)})
	if err != nil {
		t.Fatal(err)
	}
	expectChain(t, out.CertChain, sleepID, now)
	want := []string{string(encodeCertificate(path[0])), string(encodeCertificate(path[1])), string(encodeCertificate(path[2]))}
	if !slices.Equal(out.CertChain[1:], want) {
		t.Errorf("%d elements behind the leaf, want both certificates below the root, then the root", len(out.CertChain)-1)
	}

	secret, err := a.NewSecret(sleep, now)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseCertificates(secret.Data[mesh.CertChain])
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 3 {
		t.Fatalf("%d certificates in the Secret, want leaf and two", len(certs))
	}
	expectLeaf(t, certs[0], string(secret.Data[mesh.CertRoot]), sleepID, nil, now, certs[1:]...)
	if _, err := a.CheckSecret(sleep, secret, now); err != nil {
		t.Errorf("its own Secret: %v", err)
	}
	for name, spoilt := range map[string][]*x509.Certificate{
		"without the chain": certs[:1],
		"half a chain":      certs[:2],
		"wrong order":       {certs[0], certs[2], certs[1]},
		"with the root":     append(slices.Clone(certs), path[2]),
		"doubled":           append(slices.Clone(certs), certs[2]),
	} {
		secret := secret.DeepCopy()
		secret.Data[mesh.CertChain] = encodeCertificates(spoilt)
		if _, err := a.CheckSecret(sleep, secret, now); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A certificate that another CA below the same root signed is not ours.
func TestCheckSecretRefusesSiblings(t *testing.T) {
	_, secret := open(t, noon, Options{})
	root := rootOf(t, secret)
	authority := func(ca authorityCert) *Authority {
		return authorityOf(t, []*x509.Certificate{ca.cert}, ca.key, []*x509.Certificate{root.cert})
	}
	ours, theirs := authority(root.below(t, "ours", nil)), authority(root.below(t, "theirs", nil))
	s, err := theirs.NewSecret(sleep, noon)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ours.CheckSecret(sleep, s, noon)
	wantError(t, err, "is not between the signing certificate and a root")
}

func TestNewIssuerRefusesBrokenPaths(t *testing.T) {
	_, secret := open(t, noon, Options{})
	_, otherSecret := open(t, noon, Options{})
	root, other := rootOf(t, secret), rootOf(t, otherSecret)
	middle := root.below(t, "middle", nil)
	last := middle.below(t, "last", nil)
	leaf := root.below(t, "leaf", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	impostor := other.below(t, "middle", nil) // by the same name
	impostorRoot := corporate(t, "root")
	ofImpostorRoot := impostorRoot.below(t, "signer", nil)
	weak := last.below(t, "weak", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	for name, c := range map[string]struct {
		path []*x509.Certificate
		key  crypto.Signer
		want string
	}{
		"gap":                    {[]*x509.Certificate{last.cert}, last.key, "none of them signed it"},
		"wrong order":            {[]*x509.Certificate{middle.cert, last.cert, root.cert}, middle.key, "names another issuer"},
		"other root":             {[]*x509.Certificate{last.cert, middle.cert, other.cert}, last.key, "names another issuer"},
		"impostor in between":    {[]*x509.Certificate{last.cert, impostor.cert}, last.key, "not signed by the next one"},
		"root of another":        {[]*x509.Certificate{impostor.cert, root.cert}, impostor.key, "names another issuer"},
		"signed by another":      {[]*x509.Certificate{impostor.cert}, impostor.key, "none of them signed it"},
		"root by the same name":  {[]*x509.Certificate{ofImpostorRoot.cert}, ofImpostorRoot.key, "none of them signed it"},
		"such a root at the end": {[]*x509.Certificate{ofImpostorRoot.cert, impostorRoot.cert}, ofImpostorRoot.key, "none of them signed it"},
		"below a leaf":           {[]*x509.Certificate{leaf.cert}, leaf.key, "not that of a CA"},
		"may not sign":           {[]*x509.Certificate{weak.cert, last.cert, middle.cert}, weak.key, "not that of a CA"},
		"key of the middle":      {[]*x509.Certificate{last.cert, middle.cert}, middle.key, "does not match"},
	} {
		_, err := newIssuer(c.path, c.key, []*x509.Certificate{root.cert, corporate(t, "root").cert})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantError(t, err, c.want)
	}
}

// A leaf ends with the first of all certificates that it hangs from.
func TestLifetimeIsClampedToTheWholeChain(t *testing.T) {
	_, secret := open(t, noon, Options{})
	root := rootOf(t, secret)
	brief := root.below(t, "brief", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon, noon.Add(2*time.Hour) })
	long := brief.below(t, "long", nil)
	i, err := newIssuer([]*x509.Certificate{long.cert, brief.cert}, long.key, []*x509.Certificate{root.cert})
	if err != nil {
		t.Fatal(err)
	}
	begins, ends, err := i.lifetime(noon.Add(time.Minute), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !begins.Equal(noon) || !ends.Equal(noon.Add(2*time.Hour)) {
		t.Errorf("%v to %v, want all that the certificate in between allows", begins, ends)
	}
}

func TestSelfIssued(t *testing.T) {
	one, two := []byte{1}, []byte{2}
	for _, c := range []struct {
		cert x509.Certificate
		want bool
	}{
		{x509.Certificate{RawSubject: one, RawIssuer: one}, true},
		{x509.Certificate{RawSubject: one, RawIssuer: one, SubjectKeyId: one}, true},
		{x509.Certificate{RawSubject: one, RawIssuer: one, AuthorityKeyId: one}, true},
		{x509.Certificate{RawSubject: one, RawIssuer: one, SubjectKeyId: one, AuthorityKeyId: one}, true},
		{x509.Certificate{RawSubject: one, RawIssuer: one, SubjectKeyId: one, AuthorityKeyId: two}, false},
		{x509.Certificate{RawSubject: one, RawIssuer: two}, false},
		{x509.Certificate{RawSubject: one, RawIssuer: two, SubjectKeyId: one, AuthorityKeyId: one}, false},
	} {
		if got := selfIssued(&c.cert); got != c.want {
			t.Errorf("%v by %v, keys %v by %v: %t", c.cert.RawSubject, c.cert.RawIssuer, c.cert.SubjectKeyId, c.cert.AuthorityKeyId, got)
		}
	}
}

// Of several certificates of one root any will do; of those between, all have to be valid.
func TestLifetimeOfAPath(t *testing.T) {
	root := corporate(t, "root")
	life := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(from), noon.Add(to) }
	}
	early := root.resigned(t, root, life(-3*time.Hour, 24*time.Hour))
	late := root.resigned(t, root, life(-1*time.Hour, 48*time.Hour))
	for _, c := range []struct{ middle, last, wantFrom, wantTo time.Duration }{
		{-9 * time.Hour, -8 * time.Hour, -3 * time.Hour, 12 * time.Hour},
		{-2 * time.Hour, -8 * time.Hour, -2 * time.Hour, 12 * time.Hour},
		{-9 * time.Hour, -2 * time.Hour, -2 * time.Hour, 12 * time.Hour},
	} {
		middle := root.below(t, "middle", life(c.middle, 100*time.Hour))
		last := middle.below(t, "last", life(c.last, 12*time.Hour))
		for _, roots := range [][]*x509.Certificate{certs(early, late), certs(late, early)} {
			i := authorityOf(t, certs(last, middle), last.key, roots).current.Load()
			if !i.notBefore.Equal(noon.Add(c.wantFrom)) || !i.notAfter.Equal(noon.Add(c.wantTo)) {
				t.Errorf("middle from %v, last from %v: %v to %v", c.middle, c.last, i.notBefore, i.notAfter)
			}
		}
	}
}
