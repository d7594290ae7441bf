package ca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// An installation whose root signs leaves itself gets an intermediate, and nobody who
// has but the root, old or new, notices: whichever side a leaf is on.
func TestUpgradeToIntermediate(t *testing.T) {
	for name, root := range map[string]*corev1.Secret{
		"our root":            first(NewRoot(RootOptions{}, noon)),
		"root of Citadel 1.1": citadel11(t, noon.Add(-time.Hour)),
	} {
		t.Run(name, func(t *testing.T) {
			a, err := Open(root, Options{})
			if err != nil {
				t.Fatal(err)
			}
			before := newSecret(t, a, sleep, noon)
			untouched := root.DeepCopy()
			made := intermediate(t, root, nil, noon)
			for key, value := range untouched.Data {
				if !bytes.Equal(root.Data[key], value) {
					t.Errorf("%s of the root changed", key)
				}
			}
			if changed, err := a.Replace(Material{Root: root, Intermediate: made}, noon); err != nil || !changed {
				t.Fatalf("Replace = %t, %v", changed, err)
			}
			after := newSecret(t, a, sleep, noon)
			for _, s := range []*corev1.Secret{before, after} {
				expectChainIn(t, s, root.Data[mesh.CACertKey], noon)
				if _, err := a.CheckSecret(sleep, s, noon); err != nil {
					t.Errorf("would be renewed at once: %v", err)
				}
			}
			shake(t, before, after, noon)
			shake(t, after, before, noon)

			// The root key goes; nothing else changes.
			offline := root.DeepCopy()
			delete(offline.Data, mesh.CAKeyKey)
			if changed, err := a.Replace(Material{Root: offline, Intermediate: made}, noon); err != nil || changed {
				t.Fatalf("without the root key: %t, %v", changed, err)
			}
			if s := a.Status(); s.RootKey != RootKeyOffline || s.Renewal.IsZero() {
				t.Errorf("status %+v", s)
			}
			shake(t, before, newSecret(t, a, sleep, noon), noon)
			if _, err := Start(Material{Root: offline, Intermediate: made}, Options{}, noon); err != nil {
				t.Errorf("restart: %v", err)
			}
			_, err = Open(offline, Options{})
			wantError(t, err, "ca-key.pem: no PEM block")
		})
	}
}

// shake is a handshake of mutual TLS between the holders of two Secrets, each of which
// trusts the roots of its own Secret.
func shake(t *testing.T, client, server *corev1.Secret, now time.Time) {
	t.Helper()
	config := func(s *corev1.Secret) *tls.Config {
		pair, err := tls.X509KeyPair(s.Data[mesh.CertChain], s.Data[mesh.CertKey])
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.Data[mesh.CertRoot])
		return &tls.Config{
			Certificates: []tls.Certificate{pair}, RootCAs: roots, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
			Time: func() time.Time { return now }, MinVersion: tls.VersionTLS12,
			InsecureSkipVerify: true, // only of the name: below
			VerifyConnection: func(c tls.ConnectionState) error {
				between := x509.NewCertPool()
				for _, cert := range c.PeerCertificates[1:] {
					between.AddCert(cert)
				}
				_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{
					Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
				})
				return err
			},
		}
	}
	here, there := net.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	served := make(chan error, 1)
	go func() { // awaited below
		conn := tls.Server(there, config(server))
		err := conn.HandshakeContext(ctx)
		_ = conn.Close() // waits a few seconds for the client to hear of it, and no longer
		served <- err
	}()
	conn := tls.Client(here, config(client))
	err := conn.HandshakeContext(ctx)
	_, _ = conn.Read(make([]byte, 1)) // what the server thinks of the client's certificate
	_ = conn.Close()
	if err := errors.Join(err, <-served); err != nil {
		t.Error(err)
	}
}

// When the intermediate is replaced, nothing that the one before signed is renewed for
// it, and an intermediate of nobody's knowledge is still none of ours.
func TestIntermediateOverlap(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	one := intermediate(t, root, nil, noon)
	a, err := Start(Material{Root: root, Intermediate: one}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	later := noon.Add(DefaultIntermediateTTL * 7 / 10)
	before := newSecret(t, a, sleep, later)
	two := intermediate(t, root, one, later)
	if changed, err := a.Replace(Material{Root: root, Intermediate: two}, later); err != nil || !changed {
		t.Fatalf("Replace = %t, %v", changed, err)
	}
	after := newSecret(t, a, sleep, later)
	for _, s := range []*corev1.Secret{before, after} {
		expectChainIn(t, s, root.Data[mesh.CACertKey], later)
		if _, err := a.CheckSecret(sleep, s, later); err != nil {
			t.Error(err)
		}
	}
	if bytes.Equal(before.Data[mesh.CertChain], after.Data[mesh.CertChain]) {
		t.Error("the same chain")
	}
	forgotten := two.DeepCopy()
	delete(forgotten.Data, mesh.EarlierCertsKey)
	if _, err := a.Replace(Material{Root: root, Intermediate: forgotten}, later); err != nil {
		t.Fatal(err)
	}
	_, err = a.CheckSecret(sleep, before, later)
	wantError(t, err, "is not between")
}
