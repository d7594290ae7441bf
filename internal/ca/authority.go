package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
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
}

// Open reads the signing certificate, its key and the roots from the CA Secret,
// istio-ca-secret. Secrets that Istio made are read as well.
func Open(secret *corev1.Secret, o Options) (*Authority, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	first, err := readIssuer(secret)
	if err != nil {
		return nil, err
	}
	a := &Authority{options: o.withDefaults()}
	a.current.Store(first)
	return a, nil
}

// Replace signs with the issuer in secret from the next request on, and reports
// whether it differs from the one before. On error that one stays in use; it is an
// error, too, to replace an issuer that can sign now by one that cannot.
func (a *Authority) Replace(secret *corev1.Secret, now time.Time) (changed bool, err error) {
	next, err := readIssuer(secret)
	if err != nil {
		return false, err
	}
	if err := next.usable(now, a.options.DefaultTTL); err != nil && a.Ready(now) == nil {
		return false, fmt.Errorf("secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	last := a.current.Swap(next)
	return !last.cert.Equal(next.cert) || !slices.Equal(last.between, next.between) || !bytes.Equal(last.bundle, next.bundle), nil
}

// Bundle returns the roots that certificates of this mesh verify by, in PEM.
func (a *Authority) Bundle() []byte { return bytes.Clone(a.current.Load().bundle) }

// Ready reports why nothing can be signed now, for readiness.
func (a *Authority) Ready(now time.Time) error {
	return a.current.Load().usable(now, a.options.DefaultTTL)
}

// Expiry returns when the first certificate between a leaf and its root ends, that root
// included, and when the first of all roots does.
func (a *Authority) Expiry() (signer, root time.Time) {
	i := a.current.Load()
	root = i.roots[0].NotAfter
	for _, r := range i.roots[1:] {
		if r.NotAfter.Before(root) {
			root = r.NotAfter
		}
	}
	return i.notAfter, root
}

// readIssuer reads the CA Secret. Older Secrets leave root-cert.pem empty: then
// the signing certificate is the root.
func readIssuer(secret *corev1.Secret) (i *issuer, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
	}()
	certs, err := parseCertificates(secret.Data[mesh.CACertKey])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mesh.CACertKey, err)
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%s: %d certificates, want one", mesh.CACertKey, len(certs))
	}
	key, err := parsePrivateKey(secret.Data[mesh.CAKeyKey])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mesh.CAKeyKey, err)
	}
	roots := certs
	if text := trimSpace(secret.Data[mesh.RootKey]); len(text) > 0 {
		if roots, err = parseCertificates(text); err != nil {
			return nil, fmt.Errorf("%s: %w", mesh.RootKey, err)
		}
	}
	return newIssuer(certs, key, roots)
}

// parseCertificates reads one or more certificates in PEM, with nothing but white
// space around them.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	blocks := bytes.Count(text, []byte("-----BEGIN "))
	for text = trimSpace(text); len(text) > 0; text = trimSpace(text) {
		if !bytes.HasPrefix(text, []byte("-----BEGIN CERTIFICATE-----")) {
			return nil, errors.New("holds something else than certificates")
		}
		block, rest := pem.Decode(text)
		if block == nil || len(block.Headers) > 0 {
			return nil, errors.New("malformed PEM block")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
		text = rest
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	if len(certs) != blocks { // Decode skips malformed blocks on its way to a good one
		return nil, errors.New("malformed PEM block")
	}
	return certs, nil
}
