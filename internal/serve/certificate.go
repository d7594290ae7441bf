package serve

import (
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
	config.ClientAuth = tls.VerifyClientCertIfGiven
	config.SessionTicketsDisabled = true
	perHandshake := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := perHandshake.Clone()
		now.ClientCAs = roots()
		return now, nil
	}
	// Never used, as each handshake has its own; nil would mean the system's roots.
	config.ClientCAs = x509.NewCertPool()
	return config
}
