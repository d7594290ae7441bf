package main

import (
	"context"
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
	certificate serve.Certificate
	bundle      atomic.Pointer[[]byte]
	changed     chan struct{} // a word after each new bundle; one that nobody hears yet stands for all
	log         *slog.Logger
}

func newCredentials(log *slog.Logger, metrics prometheus.Registerer) *credentials {
	c := &credentials{log: log, changed: make(chan struct{}, 1)}
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
	if err := c.certificate.Set(secret.Data[mesh.CertChain], secret.Data[mesh.CertKey], time.Now()); err != nil {
		c.log.WarnContext(ctx, "serving certificate refused", "secret", secret.Name, "err", err)
		return
	}
	if roots := secret.Data[mesh.CertRoot]; len(roots) > 0 {
		c.bundle.Store(&roots)
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
	leaf := c.certificate.Leaf()
	c.log.InfoContext(ctx, "serving certificate taken", "serial", leaf.SerialNumber.Text(16), "expires", leaf.NotAfter)
}

// roots returns the roots that issued the certificate being served, or nil.
func (c *credentials) roots() []byte {
	if roots := c.bundle.Load(); roots != nil {
		return *roots
	}
	return nil
}
