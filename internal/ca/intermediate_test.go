package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// intermediate makes the Secret below a root.
func intermediate(t testing.TB, root, found *corev1.Secret, now time.Time) *corev1.Secret {
	t.Helper()
	secret, err := DesiredIntermediate(root, found, IntermediateOptions{}, now)
	if err != nil {
		t.Fatal(err)
	}
	if secret == nil {
		t.Fatal("nothing is wanted")
	}
	return secret
}

// expectChainIn verifies an account's Secret by the roots alone, with what it holds.
func expectChainIn(t testing.TB, secret *corev1.Secret, roots []byte, now time.Time) {
	t.Helper()
	certs, err := parseCertificates(secret.Data[mesh.CertChain])
	if err != nil {
		t.Fatal(err)
	}
	expectLeaf(t, certs[0], string(roots), sleepID, nil, now, certs[1:]...)
}

// citadel11 is a CA Secret as Citadel of Istio 1.1 wrote it.
func citadel11(t testing.TB, birth time.Time) *corev1.Secret {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"cluster.local"}},
		NotBefore: birth, NotAfter: birth.Add(DefaultRootTTL), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, rsa2048().Public(), rsa2048())
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: mesh.CASecret},
		Type:       mesh.CASecretType,
		Data: map[string][]byte{
			mesh.CACertKey: []byte(inPEM("CERTIFICATE", der)),
			mesh.CAKeyKey:  []byte(inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048()))),
			mesh.RootKey:   {}, mesh.CertChain: {}, mesh.CertKey: {},
		},
	}
}

func TestDesiredIntermediate(t *testing.T) {
	root, err := NewRoot(RootOptions{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewRoot(RootOptions{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	offline := root.DeepCopy()
	offline.Data[mesh.CAKeyKey] = nil
	first := intermediate(t, root, nil, noon)
	year := DefaultIntermediateTTL
	if first.Type == mesh.CASecretType || first.Type == mesh.WorkloadSecretType || first.Name != "garrison-ca-intermediate" {
		t.Errorf("type %s, name %s", first.Type, first.Name)
	}
	cert := parseLeaf(t, string(first.Data[mesh.CACertKey]))
	rootCert := parseLeaf(t, string(root.Data[mesh.CACertKey]))
	if cert.Subject.CommonName != "intermediate" || !slices.Equal(cert.Subject.Organization, []string{"cluster.local"}) ||
		!slices.Equal(rootCert.Subject.Organization, []string{"cluster.local"}) {
		t.Errorf("subjects %q, %q", cert.Subject, rootCert.Subject)
	}
	if !cert.IsCA || !cert.MaxPathLenZero || cert.MaxPathLen != 0 || cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign ||
		len(cert.SubjectKeyId) != 20 || !bytes.Equal(cert.AuthorityKeyId, rootCert.SubjectKeyId) || len(cert.PermittedURIDomains) > 0 {
		t.Errorf("profile of the intermediate: %+v", cert)
	}
	if !cert.NotAfter.Equal(noon.Add(year)) || !cert.NotBefore.Equal(noon.Add(-2*time.Minute)) {
		t.Errorf("valid %v to %v", cert.NotBefore, cert.NotAfter)
	}
	spoilt, foreign := first.DeepCopy(), first.DeepCopy()
	spoilt.Data[mesh.CAKeyKey] = other.Data[mesh.CAKeyKey]
	foreign.Type = corev1.SecretTypeOpaque
	with := func(name string, text []byte) *corev1.Secret {
		s := first.DeepCopy()
		s.Data[name] = text
		return s
	}
	itself := with(mesh.CACertKey, root.Data[mesh.CACertKey])
	itself.Data[mesh.CAKeyKey] = root.Data[mesh.CAKeyKey]
	endsSoon, err := NewRoot(RootOptions{TTL: 48 * time.Hour}, noon)
	if err != nil {
		t.Fatal(err)
	}
	short := intermediate(t, endsSoon, nil, noon) // for as long as the root lives

	for name, c := range map[string]struct {
		root, found *corev1.Secret
		now         time.Time
		kept        bool
		earlier     int
		wrong       string
	}{
		"just made":                   {root: root, found: first, now: noon, kept: true},
		"more than a third left":      {root: root, found: first, now: noon.Add(year * 66 / 100), kept: true},
		"less than a third left":      {root: root, found: first, now: noon.Add(year * 67 / 100), earlier: 1},
		"ended":                       {root: root, found: first, now: noon.Add(year + time.Hour)},
		"spoilt":                      {root: root, found: spoilt, now: noon},
		"key is garbage":              {root: root, found: with(mesh.CAKeyKey, []byte("x")), now: noon},
		"certificate is garbage":      {root: root, found: with(mesh.CACertKey, []byte("x")), now: noon},
		"earlier ones are garbage":    {root: root, found: with(mesh.EarlierCertsKey, []byte("x")), now: noon},
		"is the root itself":          {root: root, found: itself, now: noon},
		"another root":                {root: other, found: first, now: noon},
		"name is taken":               {root: root, found: foreign, now: noon, wrong: "somebody else's"},
		"before the root":             {root: root, now: noon.Add(-time.Hour), wrong: "not valid before"},
		"offline":                     {root: offline, found: first, now: noon, kept: true},
		"offline and due":             {root: offline, found: first, now: noon.Add(year * 9 / 10), kept: true},
		"offline and none":            {root: offline, now: noon, wrong: "is not there; another can be made only with the root key: put ca-key.pem back into secret istio-ca-secret"},
		"offline and spoilt":          {root: offline, found: spoilt, now: noon, wrong: "does not match"},
		"would live no longer":        {root: endsSoon, found: short, now: noon.Add(40 * time.Hour), kept: true},
		"root that allows none below": {root: pathless(t), now: noon, wrong: "does not let it sign"},
		"root ended":                  {root: endsSoon, now: noon.Add(49 * time.Hour), wrong: "expires at"},
	} {
		t.Run(name, func(t *testing.T) {
			before := [2]*corev1.Secret{c.root.DeepCopy(), c.found.DeepCopy()}
			got, err := DesiredIntermediate(c.root, c.found, IntermediateOptions{}, c.now)
			if c.wrong != "" {
				wantError(t, err, c.wrong)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if kept := got == nil; kept != c.kept {
				t.Fatalf("kept %t, want %t", kept, c.kept)
			}
			if !bytes.Equal(before[0].Data[mesh.CACertKey], c.root.Data[mesh.CACertKey]) ||
				c.found != nil && !bytes.Equal(before[1].Data[mesh.CACertKey], c.found.Data[mesh.CACertKey]) {
				t.Error("changed what it was given")
			}
			if c.kept {
				return
			}
			a, err := Start(Material{Root: c.root, Intermediate: got}, Options{}, c.now)
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Ready(c.now); err != nil {
				t.Error(err)
			}
			expectChainIn(t, newSecret(t, a, sleep, c.now), c.root.Data[mesh.CACertKey], c.now)
			if n := len(a.current.Load().earlier); n != c.earlier {
				t.Errorf("%d earlier certificates, want %d", n, c.earlier)
			}
			if again, err := DesiredIntermediate(c.root, got, IntermediateOptions{}, c.now); again != nil || err != nil {
				t.Errorf("not content with its own work: %v, %v", again, err)
			}
		})
	}

	t.Run("a root more", func(t *testing.T) {
		more := root.DeepCopy()
		more.Data[mesh.RootKey] = append(more.Data[mesh.RootKey], other.Data[mesh.CACertKey]...)
		got := intermediate(t, more, first, noon)
		if !bytes.Equal(got.Data[mesh.CACertKey], first.Data[mesh.CACertKey]) || !bytes.Equal(got.Data[mesh.RootKey], more.Data[mesh.RootKey]) {
			t.Error("want the same intermediate with the roots of now")
		}
	})
}

// pathless returns the Secret of a root that may sign leaves only.
func pathless(t *testing.T) *corev1.Secret {
	t.Helper()
	secret := citadel11(t, noon.Add(-time.Hour))
	root := rootOf(t, secret)
	template := *root.cert
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, root.key.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	secret.Data[mesh.CACertKey] = []byte(inPEM("CERTIFICATE", der))
	return secret
}

func TestKeyKinds(t *testing.T) {
	for _, name := range keyKinds {
		kind, err := ParseKeyKind(name)
		if err != nil {
			t.Fatal(err)
		}
		root := first(NewRoot(RootOptions{Key: kind}, noon))
		made, err := DesiredIntermediate(root, nil, IntermediateOptions{Key: kind}, noon)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"p256": "ECDSA P-256", "p384": "ECDSA P-384", "rsa2048": "RSA 2048", "rsa4096": "RSA 4096"}[name]
		for _, c := range a.Status().Certificates {
			if c.Key != want {
				t.Errorf("%s: %s has %s", name, c.Role, c.Key)
			}
		}
		s := newSecret(t, a, sleep, noon)
		expectChainIn(t, s, a.Bundle(), noon)
		expectOpenSSL(t, s, noon)
	}
	_, err := ParseKeyKind("dsa")
	wantError(t, err, "p256, p384, rsa2048, rsa4096")
}

// With the constraint, the intermediate's own key is of no use for other trust domains.
func TestIntermediateNameConstraint(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	made, err := DesiredIntermediate(root, nil, IntermediateOptions{Constrain: true}, noon)
	if err != nil {
		t.Fatal(err)
	}
	cert := parseLeaf(t, string(made.Data[mesh.CACertKey]))
	if !slices.Equal(cert.PermittedURIDomains, []string{"cluster.local"}) || !cert.PermittedDNSDomainsCritical {
		t.Errorf("constraints %v, critical %t", cert.PermittedURIDomains, cert.PermittedDNSDomainsCritical)
	}
	ours, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	s := newSecret(t, ours, sleep, noon)
	expectChainIn(t, s, ours.Bundle(), noon)
	expectOpenSSL(t, s, noon)
	domain, err := identity.ParseTrustDomain("10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = DesiredIntermediate(root, nil, IntermediateOptions{Constrain: true, TrustDomain: domain}, noon)
	wantError(t, err, "is no DNS name")
}

// A root Secret that was deleted comes back as far as it is known, which is enough.
func TestRestoreRoot(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	made := intermediate(t, root, nil, noon)
	restored := RestoreRoot(made)
	if restored == nil {
		t.Fatal("not restored")
	}
	if restored.Name != mesh.CASecret || !bytes.Equal(restored.Data[mesh.CACertKey], root.Data[mesh.CACertKey]) || len(restored.Data[mesh.CAKeyKey]) > 0 {
		t.Errorf("%+v", restored)
	}
	a, err := Start(Material{Root: restored, Intermediate: made}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	expectChainIn(t, newSecret(t, a, sleep, noon), root.Data[mesh.CACertKey], noon)
	plugged := made.DeepCopy()
	plugged.Annotations[mesh.CASourceAnnotation] = mesh.CAPlugged
	for name, s := range map[string]*corev1.Secret{"none": nil, "of a plugged-in CA": plugged, "empty": {}} {
		if got := RestoreRoot(s); got != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func first(secret *corev1.Secret, err error) *corev1.Secret {
	if err != nil {
		panic(err)
	}
	return secret
}
