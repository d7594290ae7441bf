package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
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
}

// NewRoot makes a key and a self-signed certificate on P-256 that signs for the
// trust domain, as the Secret istio-ca-secret. Its subject tells roots of one
// trust domain apart: many verifiers look an issuer up by name alone.
func NewRoot(o RootOptions, now time.Time) (*corev1.Secret, error) {
	if o.TrustDomain.IsZero() {
		o.TrustDomain = identity.DefaultTrustDomain
	}
	if o.Namespace == "" {
		o.Namespace = mesh.SystemNamespace
	}
	if o.TTL == 0 {
		o.TTL = DefaultRootTTL
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	digest := sha256.Sum256(public)
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] &= 0x7f // a serial is positive
	serial[0] |= 0x40 // and has its full length
	now = now.UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject: pkix.Name{
			Organization: []string{o.TrustDomain.String()},
			SerialNumber: hex.EncodeToString(digest[:8]),
		},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(o.TTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SubjectKeyId:          digest[:20],
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	keyText, err := encodePrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	certText := encodeCertificate(&x509.Certificate{Raw: der})
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace,
			Name:      mesh.CASecret,
			Labels:    map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
		},
		Type: mesh.CASecretType,
		Data: map[string][]byte{
			mesh.CACertKey: certText,
			mesh.CAKeyKey:  keyText,
			mesh.RootKey:   certText,
		},
	}, nil
}
