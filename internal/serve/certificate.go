package serve

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
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

// Register tells, in metrics, when the certificate in use ends and from when on, as overdue
// has it, it should have been replaced long ago.
func (c *Certificate) Register(r prometheus.Registerer, overdue func(leaf *x509.Certificate) time.Time) {
	moment := func(name, help string, of func(*x509.Certificate) time.Time) {
		promauto.With(r).NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help + ", in seconds since 1970; 0 while there is none."}, func() float64 {
			if leaf := c.Leaf(); leaf != nil {
				return float64(of(leaf).Unix())
			}
			return 0
		})
	}
	moment("serving_certificate_not_after_seconds",
		"When the serving certificate expires", func(leaf *x509.Certificate) time.Time { return leaf.NotAfter })
	moment("serving_certificate_overdue_seconds",
		"From when on the serving certificate should have been replaced long ago", overdue)
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
// certificate, if they have one by roots, which is asked at each handshake. What comes is
// not verified, and proves nothing but that the client holds the key: whoever takes it
// for more has to verify it first. A handshake does not fail because a certificate has
// expired or is of another root, since its holder may have another proof; it does for a
// chain that would be dear to verify.
//
// There are no session tickets: each connection shows its client's certificate anew.
func (c *Certificate) TLSWithClients(roots func() *x509.CertPool, protocols ...string) *tls.Config {
	config := c.TLS(protocols...)
	// Package tls would verify whatever chain a stranger puts together before anybody could
	// look at it: a hundred huge keys, at a second of a processor's time.
	config.ClientAuth = tls.RequestClientCert
	config.SessionTicketsDisabled = true
	config.VerifyPeerCertificate = func(chain [][]byte, _ [][]*x509.Certificate) error {
		return boundClient(chain)
	}
	perHandshake := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := perHandshake.Clone()
		now.ClientCAs = roots() // clients are told, and come without a certificate if theirs is of none
		return now, nil
	}
	return config
}

// The longest chain that is taken, and the largest RSA keys in it.
const (
	maxClientChain = 8
	maxClientRSA   = 4096
)

// boundClient refuses the certificates of a client, in DER, that would be dear to verify.
func boundClient(chain [][]byte) error {
	if len(chain) > maxClientChain {
		return fmt.Errorf("client certificate: chain of %d, at most %d", len(chain), maxClientChain)
	}
	for _, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("client certificate: %w", err)
		}
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() > maxClientRSA || key.E > 65537) {
			return errors.New("client certificate: chain with an RSA key that is too large")
		}
	}
	return nil
}
