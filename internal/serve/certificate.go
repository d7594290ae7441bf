package serve

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Certificate is a serving certificate that may be replaced while connections are
// accepted. The zero value has none yet, and handshakes fail until [Certificate.Set].
type Certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// Set checks a PEM chain (leaf first) and its key, and serves them from the next
// handshake on. On error the certificate in use stays.
func (c *Certificate) Set(chain, key []byte, now time.Time) error {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("serving certificate: %w", err)
	}
	if now.After(pair.Leaf.NotAfter) {
		return fmt.Errorf("serving certificate: expired at %s", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	c.current.Store(&pair)
	return nil
}

// Leaf returns the certificate in use, or nil.
func (c *Certificate) Leaf() *x509.Certificate {
	if pair := c.current.Load(); pair != nil {
		return pair.Leaf
	}
	return nil
}

// Ready reports why TLS cannot be served now, for readiness.
func (c *Certificate) Ready() error {
	leaf := c.Leaf()
	if leaf == nil {
		return errors.New("no serving certificate yet")
	}
	if now := time.Now(); now.After(leaf.NotAfter) {
		return fmt.Errorf("serving certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// TLS returns a server configuration that always presents the current
// certificate, TLS 1.2 and up, for the protocols given (ALPN).
func (c *Certificate) TLS(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if pair := c.current.Load(); pair != nil {
				return pair, nil
			}
			return nil, errors.New("no serving certificate yet")
		},
	}
}

// TLSWithClients is [Certificate.TLS] for a server whose clients may come with a
// certificate. One that comes must verify by roots, which is asked at each handshake,
// or the handshake fails; whether it counts for anything is not decided here.
//
// There are no session tickets: a resumed session would bring its client in by the
// roots of the day that it began.
func (c *Certificate) TLSWithClients(roots func() *x509.CertPool, protocols ...string) *tls.Config {
	config := c.TLS(protocols...)
	// Package tls would verify whatever chain a stranger puts together before anybody could
	// look at it: a hundred huge keys, at a second of a processor's time.
	config.ClientAuth = tls.RequestClientCert
	config.SessionTicketsDisabled = true
	perHandshake := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := perHandshake.Clone()
		// Clients are told, and come without a certificate if theirs is of no such root.
		now.ClientCAs = roots()
		now.VerifyPeerCertificate = func(chain [][]byte, _ [][]*x509.Certificate) error { //nolint:gosec // no session is resumed
			if len(chain) == 0 {
				return nil
			}
			return verifyClient(chain, now.ClientCAs)
		}
		return now, nil
	}
	// Never used, as each handshake has its own; without it, nobody would be verified.
	config.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("handshake without roots") }
	return config
}

// The longest chain that is looked at, and the largest RSA keys in it.
const (
	maxClientChain = 8
	maxClientRSA   = 4096
)

// verifyClient verifies the certificates of a client, in DER and leaf first.
func verifyClient(chain [][]byte, roots *x509.CertPool) error {
	if len(chain) > maxClientChain {
		return fmt.Errorf("client certificate: chain of %d, at most %d", len(chain), maxClientChain)
	}
	var leaf *x509.Certificate
	between := x509.NewCertPool()
	for n, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("client certificate: %w", err)
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() > maxClientRSA || key.E > 65537) {
			return errors.New("client certificate: chain with an RSA key that is too large")
		}
		if n == 0 {
			leaf = cert
		} else {
			between.AddCert(cert)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return fmt.Errorf("client certificate: %w", err)
	}
	return nil
}
