package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// SecretKey is the kind of key that certificates in Secrets are for. The zero value
// is P-256, in PKCS#8.
type SecretKey struct{ rsa bool }

// RSA2048 is for readers of Secrets that know nothing else: as Istio 1.1 wrote it, in
// PKCS#1. Making one takes a thousand times as long as of the other kind.
var RSA2048 = SecretKey{rsa: true}

// ParseSecretKey reads p256 or rsa2048.
func ParseSecretKey(text string) (SecretKey, error) {
	switch text {
	case "p256":
		return SecretKey{}, nil
	case "rsa2048":
		return RSA2048, nil
	}
	return SecretKey{}, fmt.Errorf("%q: p256 or rsa2048", text)
}

// generate makes a key, and the text of it that goes into a Secret.
func (k SecretKey) generate() (crypto.Signer, []byte, error) {
	if k.rsa {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, nil, err
		}
		return key, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	text, err := encodePrivateKey(key)
	return key, text, err
}
