package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Whoever got something signed by the CA in use, which another program may have signed
// with as well, has no better a Secret for it: what Citadel would not have made is not kept.
func TestCheckSecretRefusesForgeries(t *testing.T) {
	a, _ := open(t, noon, Options{})
	by := a.current.Load()
	brief, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key    crypto.Signer // nil: the Secret's own
		change func(*x509.Certificate)
		want   string
	}{
		"the same again":        {nil, func(*x509.Certificate) {}, ""},
		"key that is too brief": {brief, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }, "RSA of 1024 bits"},
		"key on another curve":  {curve, func(*x509.Certificate) {}, "ECDSA on P-521"},
		"CA":                    {nil, func(c *x509.Certificate) { c.IsCA = true }, "not marked as a leaf"},
		"may sign certificates": {nil, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "key usage"},
		"may sign code": {nil, func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning)
		}, "extended key usage"},
		"only for servers":     {nil, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, "extended key usage"},
		"for a policy as well": {nil, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }, "unexpected extension"},
		"with an address":      {nil, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, "holds addresses"},
		"with a subject":       {nil, func(c *x509.Certificate) { c.Subject.CommonName = "sleep" }, "critical"},
	} {
		t.Run(name, func(t *testing.T) {
			secret := newSecret(t, a, sleep, noon)
			leaf := parseLeaf(t, string(secret.Data[mesh.CertChain]))
			template := &x509.Certificate{
				SerialNumber: leaf.SerialNumber, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, URIs: leaf.URIs,
				KeyUsage: leaf.KeyUsage, ExtKeyUsage: leaf.ExtKeyUsage, BasicConstraintsValid: true,
			}
			c.change(template)
			public := leaf.PublicKey
			if c.key != nil {
				public = c.key.Public()
				text, err := x509.MarshalPKCS8PrivateKey(c.key)
				if err != nil {
					t.Fatal(err)
				}
				secret.Data[mesh.CertKey] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
			}
			der, err := x509.CreateCertificate(rand.Reader, template, by.cert, public, by.key)
			if err != nil {
				t.Fatal(err)
			}
			secret.Data[mesh.CertChain] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
			if _, err = a.CheckSecret(sleep, secret, noon); c.want != "" {
				wantError(t, err, c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
