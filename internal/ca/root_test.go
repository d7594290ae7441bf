package ca

import (
	"bytes"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// A certificate that signed itself is one of the roots, whatever root-cert.pem holds:
// Citadel 1.1 leaves that empty, and people append to it.
func TestOwnRoot(t *testing.T) {
	legacy := citadel11(t, noon.Add(-time.Hour))
	own, other := rootOf(t, legacy), corporate(t, "other")
	renewed := own.resigned(t, own, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Hour) })
	below := other.below(t, "below", nil)
	subordinate := legacy.DeepCopy()
	subordinate.Data[mesh.CACertKey] = encodeCertificate(below.cert)
	subordinate.Data[mesh.CAKeyKey] = keyText(t, below.key)
	for name, c := range map[string]struct {
		secret *corev1.Secret
		roots  []byte
		want   []authorityCert
	}{
		"nothing":                {legacy, nil, []authorityCert{own}},
		"another":                {legacy, encodeCertificates(certs(other)), []authorityCert{own, other}},
		"another after a line":   {legacy, slices.Concat([]byte("\n"), encodeCertificates(certs(other))), []authorityCert{own, other}},
		"itself, last":           {legacy, encodeCertificates(certs(other, own)), []authorityCert{other, own}},
		"itself, renewed":        {legacy, encodeCertificates(certs(renewed)), []authorityCert{own, renewed}},
		"a CA below, its root":   {subordinate, encodeCertificates(certs(other)), []authorityCert{other}},
		"a CA below, both there": {subordinate, encodeCertificates(certs(other, own)), []authorityCert{other, own}},
	} {
		t.Run(name, func(t *testing.T) {
			secret := c.secret.DeepCopy()
			secret.Data[mesh.RootKey] = c.roots
			want := encodeCertificates(certs(c.want...))
			direct, err := Open(secret, Options{})
			if err != nil {
				t.Fatal(err)
			}
			expectChainIn(t, newSecret(t, direct, sleep, noon), want, noon)
			made := intermediate(t, secret, nil, noon)
			if again, err := DesiredIntermediate(secret, made, IntermediateOptions{}, noon); again != nil || err != nil {
				t.Errorf("not content with its own work: %v, %v", again, err)
			}
			above, err := Start(Material{Root: secret, Intermediate: made}, Options{}, noon)
			if err != nil {
				t.Fatal(err)
			}
			for what, bundle := range map[string][]byte{
				"signs itself": direct.Bundle(), "signs by an intermediate": above.Bundle(), "remembered": made.Data[mesh.RootKey],
			} {
				if got := parseCertificatesIn(t, bundle); !slices.EqualFunc(got, certs(c.want...), (*x509.Certificate).Equal) {
					t.Errorf("%s: roots %s, want %s", what, describe(got), describe(certs(c.want...)))
				}
			}
		})
	}

	// What only names itself its issuer is no root.
	namesake := *own.cert
	namesake.PublicKey = other.key.Public()
	forged := own.resigned(t, authorityCert{&namesake, other.key}, func(c *x509.Certificate) { c.SignatureAlgorithm = 0 })
	secret := legacy.DeepCopy()
	secret.Data[mesh.CACertKey] = encodeCertificate(forged.cert)
	secret.Data[mesh.RootKey] = encodeCertificates(certs(other))
	_, err := Open(secret, Options{})
	wantError(t, err, "is not one of the roots, and none of them signed it")
}

// A mesh that was taken over from Citadel 1.1 gets a corporate CA and goes back. At each
// step a Citadel that runs and one that starts agree, and nobody loses a root too early.
func TestPlugInAfterTakeover(t *testing.T) {
	root := citadel11(t, noon.Add(-time.Hour))
	own, theirs := rootOf(t, root), corporate(t, "theirs")
	made := intermediate(t, root, nil, noon)
	running, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	before := newSecret(t, running, sleep, noon)

	// The new root is appended to what is in the Secret, which is nothing.
	trusting := root.DeepCopy()
	trusting.Data[mesh.RootKey] = append(root.Data[mesh.RootKey], encodeCertificates(certs(theirs))...)
	made = intermediate(t, trusting, made, noon)
	self := Material{Root: trusting, Intermediate: made}
	published := encodeCertificates(certs(own, theirs))
	replace := func(what string, m Material) {
		t.Helper()
		if _, err := running.Replace(m, noon); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		m.Trusted = published
		if _, err := Start(m, Options{}, noon); err != nil {
			t.Fatalf("%s, restarted: %v", what, err)
		}
		expectChainIn(t, before, running.Bundle(), noon)
		expectChainIn(t, newSecret(t, running, sleep, noon), published, noon)
	}
	replace("both are trusted", self)
	plugged := plug(files(t, theirs.below(t, "signer", nil), nil, certs(own, theirs)))
	plugged.Root, plugged.Intermediate = self.Root, running.Remember(made)
	replace("plugged in", plugged)
	plugged.Intermediate = running.Remember(made)
	during := newSecret(t, running, sleep, noon)

	// Back, by a start that was told to, and with the Secret as it was found.
	self.Mode, self.Intermediate, self.Trusted = SelfSigned, plugged.Intermediate, published
	if running, err = Start(self, Options{}, noon); err != nil {
		t.Fatal(err)
	}
	expectChainIn(t, during, running.Bundle(), noon)
	self.Trusted, self.Root, self.Intermediate = nil, root, intermediate(t, root, self.Intermediate, noon)
	if _, err := running.Replace(self, noon); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(running.Bundle(), root.Data[mesh.CACertKey]) {
		t.Errorf("roots at the end: %s", describe(parseCertificatesIn(t, running.Bundle())))
	}
}
