package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// RootOptions are the settings of a new root. Zero values mean defaults.
type RootOptions struct {
	TrustDomain identity.TrustDomain // cluster.local
	Namespace   string               // of the Secret: istio-system
	TTL         time.Duration        // [DefaultRootTTL]
	Key         KeyKind
}

// NewRoot makes a key and a self-signed certificate that signs for the trust domain,
// as the Secret istio-ca-secret.
func NewRoot(o RootOptions, now time.Time) (*corev1.Secret, error) {
	if o.TrustDomain.IsZero() {
		o.TrustDomain = identity.DefaultTrustDomain
	}
	if o.TTL == 0 {
		o.TTL = DefaultRootTTL
	}
	key, err := o.Key.generate()
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	template, err := caTemplate(o.TrustDomain, key.Public())
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	now = now.UTC().Truncate(time.Second)
	template.NotBefore, template.NotAfter = now.Add(-skew), now.Add(o.TTL)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	keyText, err := encodePrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	certText := encodeCertificate(&x509.Certificate{Raw: der})
	return rootSecret(o.Namespace, map[string][]byte{
		mesh.CACertKey: certText,
		mesh.CAKeyKey:  keyText,
		mesh.RootKey:   certText,
	}), nil
}

// RestoreRoot returns the root Secret as far as the Secret of the intermediate
// remembers it: with the root certificate, without its key. Nil where it does not.
func RestoreRoot(intermediate *corev1.Secret) *corev1.Secret {
	if intermediate == nil || remembered(intermediate) != mesh.CASelfSigned {
		return nil
	}
	certs, err := parseCertificates(intermediate.Data[mesh.CACertKey])
	if err != nil {
		return nil
	}
	roots, err := parseCertificates(intermediate.Data[mesh.RootKey])
	if err != nil {
		return nil
	}
	for _, root := range roots {
		if signedBy(certs[0], root) == nil {
			return rootSecret(intermediate.Namespace, map[string][]byte{
				mesh.CACertKey: encodeCertificate(root),
				mesh.CAKeyKey:  {},
				mesh.RootKey:   encodeCertificates(roots),
			})
		}
	}
	return nil
}

func rootSecret(namespace string, data map[string][]byte) *corev1.Secret {
	if namespace == "" {
		namespace = mesh.SystemNamespace
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      mesh.CASecret,
			Labels:    map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
		},
		Type: mesh.CASecretType,
		Data: data,
	}
}

// caTemplate is what all certificates that sign have in common, the dates left out.
// The subject tells those of one trust domain apart: many verifiers look an issuer up
// by name alone.
func caTemplate(domain identity.TrustDomain, public crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(der)
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] &= 0x7f // a serial is positive
	serial[0] |= 0x40 // and has its full length
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject: pkix.Name{
			Organization: []string{domain.String()},
			SerialNumber: hex.EncodeToString(digest[:8]),
		},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SubjectKeyId:          digest[:20],
	}, nil
}

// root is what istio-ca-secret holds. Its key is nil where it was taken offline.
type root struct {
	cert  *x509.Certificate
	key   crypto.Signer
	roots []*x509.Certificate
}

// readRoot reads the CA Secret. A certificate that signed itself is a root also where
// root-cert.pem lacks it: Istio goes by the certificate alone, and Citadel 1.1 leaves
// root-cert.pem empty, so that further roots may be all that is ever put there.
func readRoot(secret *corev1.Secret) (*root, error) {
	certs, err := parseCertificates(secret.Data[mesh.CACertKey])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mesh.CACertKey, err)
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%s: %d certificates, want one", mesh.CACertKey, len(certs))
	}
	r := &root{cert: certs[0], roots: certs}
	if text := trimSpace(secret.Data[mesh.CAKeyKey]); len(text) > 0 {
		if r.key, err = parsePrivateKey(text); err != nil {
			return nil, fmt.Errorf("%s: %w", mesh.CAKeyKey, err)
		}
		if !equalKeys(r.cert.PublicKey, r.key.Public()) {
			return nil, errors.New("signing key does not match the signing certificate")
		}
	}
	if text := trimSpace(secret.Data[mesh.RootKey]); len(text) > 0 {
		if r.roots, err = parseCertificates(text); err != nil {
			return nil, fmt.Errorf("%s: %w", mesh.RootKey, err)
		}
		if !slices.ContainsFunc(r.roots, r.cert.Equal) && signedBy(r.cert, r.cert) == nil {
			r.roots = append(certs, r.roots...)
		}
	}
	return r, nil
}

// issuer signs with the root itself.
func (r *root) issuer() (*issuer, error) {
	if r.key == nil {
		return nil, fmt.Errorf("%s: no PEM block", mesh.CAKeyKey)
	}
	return newIssuer([]*x509.Certificate{r.cert}, r.key, r.roots)
}
