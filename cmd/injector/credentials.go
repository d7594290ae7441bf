package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// credentials are what the injector proves itself by: its certificate, and the
// roots by which the API server checks that.
type credentials struct {
	host        string // what the API server calls it
	certificate serve.Certificate
	bundle      atomic.Pointer[[]byte]
	changed     chan struct{} // a word after each new bundle; one that nobody hears yet stands for all
	log         *slog.Logger
}

func newCredentials(namespace string, log *slog.Logger, metrics prometheus.Registerer) *credentials {
	c := &credentials{host: mesh.InjectorService + "." + namespace + ".svc", log: log, changed: make(chan struct{}, 1)}
	metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "serving_certificate_not_after_seconds",
		Help: "When the serving certificate expires, in seconds since 1970; 0 while there is none.",
	}, func() float64 {
		if leaf := c.certificate.Leaf(); leaf != nil {
			return float64(leaf.NotAfter.Unix())
		}
		return 0
	}))
	return c
}

// update takes the Secret as it is now. One that is gone or spoilt changes
// nothing: what is being served stays good until it expires, and Citadel repairs
// the Secret.
func (c *credentials) update(secret *corev1.Secret) {
	ctx := context.Background()
	if secret == nil {
		c.log.WarnContext(ctx, "serving certificate missing", "ready", c.certificate.Ready() == nil)
		return
	}
	roots := secret.Data[mesh.CertRoot]
	err := trusted(secret.Data[mesh.CertChain], roots, c.host)
	if err == nil {
		err = c.certificate.Set(secret.Data[mesh.CertChain], secret.Data[mesh.CertKey], time.Now())
	}
	if err != nil {
		c.log.WarnContext(ctx, "serving certificate refused", "secret", secret.Name, "err", err)
		return
	}
	c.bundle.Store(&roots)
	select {
	case c.changed <- struct{}{}:
	default:
	}
	leaf := c.certificate.Leaf()
	c.log.InfoContext(ctx, "serving certificate taken", "serial", leaf.SerialNumber.Text(16), "expires", leaf.NotAfter)
}

// trusted looks at a chain, leaf first, as an API server would that knows the roots:
// with others in the caBundle, no pod of a labelled namespace could be made. Whether
// it is time for the certificate is not its question.
func trusted(chain, roots []byte, host string) error {
	var leaf *x509.Certificate
	issuers, anchors := x509.NewCertPool(), x509.NewCertPool()
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", mesh.CertChain, err)
		case leaf == nil:
			leaf = cert
		default:
			issuers.AddCert(cert)
		}
	}
	if leaf == nil {
		return fmt.Errorf("%s: no certificate", mesh.CertChain)
	}
	if !anchors.AppendCertsFromPEM(roots) {
		return fmt.Errorf("%s: no certificate", mesh.CertRoot)
	}
	midLife := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: anchors, Intermediates: issuers, CurrentTime: midLife})
	return err
}

// roots returns the roots that issued the certificate being served, or nil.
func (c *credentials) roots() []byte {
	if roots := c.bundle.Load(); roots != nil {
		return *roots
	}
	return nil
}
