package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// When one CA follows another, both are published for overlap, because replicas hear
// of it one after the other. A certificate that the API server cannot trust yet is
// served only when its CA has been published for settle: by then the leader, or the
// next one, has put it into the caBundle.
const (
	overlap = 10 * time.Minute
	settle  = 30 * time.Second
)

// credentials are what the injector proves itself by: its certificate, and the
// roots by which the API server checks that.
type credentials struct {
	host        string        // what the API server calls it
	settle      time.Duration // see above
	certificate serve.Certificate
	changed     word // after each new bundle
	log         *slog.Logger

	mu     sync.Mutex
	served []byte   // the chain
	newest *keyPair // may have to wait to be served
	roots  []knownRoots
}

// keyPair is a certificate and its key as Citadel wrote them, in PEM.
type keyPair struct{ chain, key []byte }

// knownRoots are published from since on; until is zero for those of the newest
// certificate, which come last.
type knownRoots struct {
	pem          []byte
	since, until time.Time
}

func newCredentials(host string, log *slog.Logger, metrics prometheus.Registerer) *credentials {
	c := &credentials{
		host: host, settle: settle,
		log: log, changed: newWord(),
	}
	c.certificate.Register(metrics, overdue)
	return c
}

// overdue is half of the least share of its life that Citadel leaves to a certificate which
// it renews, and at most a week, before the end.
func overdue(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-min(7*24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore)/20))
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
	roots, newest := secret.Data[mesh.CertRoot], &keyPair{secret.Data[mesh.CertChain], secret.Data[mesh.CertKey]}
	// With others in the caBundle, no pod of a labelled namespace could be made.
	// Whether it is time for the certificate is not the question here.
	err := cluster.CheckBundle(roots, newest.chain, c.host, time.Time{})
	if err == nil {
		err = new(serve.Certificate).Set(newest.chain, newest.key, time.Now())
	}
	if err != nil {
		c.log.WarnContext(ctx, "serving certificate refused", "secret", secret.Name, "err", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.publish(roots, now)
	c.newest = newest
	pause := c.pause(now)
	if pause <= 0 {
		c.serve(newest)
		return
	}
	c.log.InfoContext(ctx, "serving certificate has to wait", "wait", pause)
	time.AfterFunc(pause, func() { // needs no owner: it is over at once
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.newest == newest {
			c.serve(newest)
		}
	})
}

// publish makes roots those of the newest certificate.
func (c *credentials) publish(roots []byte, now time.Time) {
	since := now
	c.roots = slices.DeleteFunc(c.roots, func(k knownRoots) bool {
		same, over := bytes.Equal(k.pem, roots), !k.until.IsZero() && !k.until.After(now)
		if same && !over {
			since = k.since
		}
		return same || over
	})
	if last := len(c.roots) - 1; last >= 0 && c.roots[last].until.IsZero() {
		c.roots[last].until = now.Add(overlap)
		time.AfterFunc(overlap, c.changed.tell)
	}
	c.roots = append(c.roots, knownRoots{pem: roots, since: since})
	c.changed.tell()
}

// pause returns how long the newest certificate has to wait for the API server to
// trust it. It does not where nothing is served that could stand in.
func (c *credentials) pause(now time.Time) time.Duration {
	leaf := c.certificate.Leaf()
	if leaf == nil {
		return 0
	}
	published := now
	for _, k := range c.roots {
		if k.since.Before(published) && cluster.CheckBundle(k.pem, c.newest.chain, c.host, time.Time{}) == nil {
			published = k.since
		}
	}
	return min(c.settle-now.Sub(published), leaf.NotAfter.Sub(now))
}

func (c *credentials) serve(pair *keyPair) {
	ctx := context.Background()
	if err := c.certificate.Set(pair.chain, pair.key, time.Now()); err != nil {
		c.log.WarnContext(ctx, "serving certificate refused", "err", err)
		return
	}
	c.served = pair.chain
	leaf := c.certificate.Leaf()
	c.log.InfoContext(ctx, "serving certificate taken", "serial", leaf.SerialNumber.Text(16), "expires", leaf.NotAfter)
}

// bundle returns the roots by which the API server should know every replica, or
// nil: those of the newest certificate, then those of certificates that another
// replica may still serve.
func (c *credentials) bundle() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var all []byte
	for _, k := range slices.Backward(c.roots) {
		if k.until.IsZero() {
			all = slices.Clone(k.pem)
		} else if k.until.After(now) {
			all = withRoots(all, k.pem)
		}
	}
	return all
}

// withRoots appends the certificates that a bundle does not have yet.
func withRoots(bundle, roots []byte) []byte {
	for block, rest := pem.Decode(roots); block != nil; block, rest = pem.Decode(rest) {
		if encoded := pem.EncodeToMemory(block); !bytes.Contains(bundle, encoded) {
			bundle = slices.Concat(bytes.TrimSpace(bundle), []byte("\n"), encoded)
		}
	}
	return bundle
}

// chain returns the certificate chain being served, or nil.
func (c *credentials) chain() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served
}
