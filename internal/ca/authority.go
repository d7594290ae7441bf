package ca

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Authority signs for one trust domain with the issuer in use. Its methods may be
// called from many goroutines; replacing the issuer blocks none of them.
type Authority struct {
	options Options
	current atomic.Pointer[issuer]
	refused atomic.Pointer[string] // why the material found last is not in use; nil where it is
}

// Open is [Start] with a root that signs leaves itself, whatever the time.
func Open(secret *corev1.Secret, o Options) (*Authority, error) {
	return Start(Material{Root: secret, Direct: true}, o, time.Time{})
}

// Start makes an authority of what was found. A plugged-in CA has to be able to sign
// now, below a root that workloads trust or beside it; whether a self-signed one can,
// tells [Authority.Ready].
func Start(m Material, o Options, now time.Time) (*Authority, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	first, err := m.issuer(o, now)
	if err != nil {
		return nil, err
	}
	wasPlugged := m.Intermediate != nil && !m.Direct && remembered(m.Intermediate) == mesh.CAPlugged
	if len(trimSpace(m.Trusted)) > 0 && (first.origin.plugged || wasPlugged) {
		trusted, err := parseCertificates(m.Trusted)
		if err != nil {
			return nil, fmt.Errorf("roots that workloads hold: %w", err)
		}
		if err := first.succeeds(nil, trusted, now); err != nil {
			return nil, err
		}
	}
	a := &Authority{options: o}
	a.current.Store(first)
	return a, nil
}

// Replace signs with what was found from the next request on, and reports whether it
// differs from before. On error that which signed until now goes on, and
// [Authority.Status] tells why. It is an error, too, to replace an issuer that can sign
// now by one that cannot, and a root that was brought by one that workloads do not know.
func (a *Authority) Replace(m Material, now time.Time) (changed bool, err error) {
	defer func() {
		if a.refused.Store(nil); err != nil {
			text := err.Error()
			a.refused.Store(&text)
		}
	}()
	next, err := m.issuer(a.options, now)
	if err != nil {
		return false, err
	}
	last := a.current.Load()
	if err := next.usable(now, a.options.DefaultTTL); err != nil && a.Ready(now) == nil {
		return false, fmt.Errorf("%s: %w", next.origin.from, err)
	}
	if last.origin.plugged && !next.origin.plugged {
		return false, errFallBack
	}
	if next.origin.plugged {
		if err := next.succeeds(last, last.roots, now); err != nil {
			return false, err
		}
		for _, c := range last.chainsUntil(now) { // no Secret remembers them
			if !slices.ContainsFunc(next.chain, c.Equal) {
				next.earlier = append(next.earlier, c)
			}
		}
	}
	a.current.Store(next)
	return !last.cert.Equal(next.cert) || !slices.Equal(last.between, next.between) || !bytes.Equal(last.bundle, next.bundle), nil
}

// Bundle returns the roots that certificates of this mesh verify by, in PEM.
func (a *Authority) Bundle() []byte { return bytes.Clone(a.current.Load().bundle) }

// ClientRoots returns the roots in use for verifying clients: one that was retired
// vouches for nobody.
func (a *Authority) ClientRoots() *x509.CertPool {
	roots := x509.NewCertPool()
	for _, root := range a.current.Load().roots {
		roots.AddCert(root)
	}
	return roots
}

// Ready reports why nothing can be signed now, for readiness.
func (a *Authority) Ready(now time.Time) error {
	return a.current.Load().usable(now, a.options.DefaultTTL)
}

// Expiry returns when the first certificate between a leaf and its root ends, that root
// included, and when the first of all roots does.
func (a *Authority) Expiry() (signer, root time.Time) {
	i := a.current.Load()
	first := slices.MinFunc(i.roots, func(x, y *x509.Certificate) int { return x.NotAfter.Compare(y.NotAfter) })
	return i.notAfter, first.NotAfter
}
