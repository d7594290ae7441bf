// Package pki makes the certificates and keys of one lab cluster, and the
// kubeconfigs that carry them. They live for as long as the cluster, in folders
// of its own, and protect nothing else.
//
// Start reading at [New] and [Authority.Issue].
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"time"
)

const (
	lifetime = 365 * 24 * time.Hour
	skew     = time.Hour // a machine's clock may be set back while the cluster runs
)

// Pair is a certificate with its key, both as PEM.
type Pair struct{ Cert, Key []byte }

// Authority signs the certificates of a cluster.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pair Pair
}

// New makes an authority that is valid around now.
func New(name string, now time.Time) (*Authority, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, pair, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	return &Authority{cert: cert, key: key, pair: pair}, nil
}

// Pair is the authority's own certificate and key.
func (a *Authority) Pair() Pair { return a.pair }

// Leaf is what a certificate says of its holder. With a name or address it is
// a server's, without a client's.
type Leaf struct {
	User   string   // common name: the user, for the API server
	Groups []string // organizations: the user's groups
	Names  []string
	Addrs  []netip.Addr
}

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(l Leaf) (Pair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: l.User, Organization: l.Groups},
		NotBefore:   a.cert.NotBefore,
		NotAfter:    a.cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		DNSNames:    l.Names,
	}
	for _, addr := range l.Addrs {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	}
	if len(l.Names)+len(l.Addrs) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	_, pair, err := sign(template, a.cert, key, a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("certificate of %s: %w", l.User, err)
	}
	return pair, nil
}

func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, Pair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, Pair{}, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, Pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Pair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, Pair{}, err
	}
	return cert, Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM}, nil
}

// ServiceAccountKeys makes the key that service account tokens are signed with:
// RSA, as everything that verifies such tokens knows RS256.
func ServiceAccountKeys() (private, public []byte, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	if private, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	return private, encode("PUBLIC KEY", der), nil
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encode("PRIVATE KEY", der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Kubeconfig names one cluster and one user of it. It is JSON, which every
// reader of YAML takes.
func Kubeconfig(cluster, server string, ca []byte, user Pair) ([]byte, error) {
	type named map[string]any
	return json.MarshalIndent(named{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []named{{"name": cluster, "cluster": named{
			"server": server, "certificate-authority-data": ca}}},
		"users": []named{{"name": cluster, "user": named{
			"client-certificate-data": user.Cert, "client-key-data": user.Key}}},
		"contexts":        []named{{"name": cluster, "context": named{"cluster": cluster, "user": cluster}}},
		"current-context": cluster,
	}, "", "  ")
}
