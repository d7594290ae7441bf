package ca

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// KeyKind is an algorithm and size for the keys of certificate authorities. The zero
// value is P-256.
type KeyKind struct{ name string }

// keyKinds lists what [ParseKeyKind] knows, the default first.
var keyKinds = []string{"p256", "p384", "rsa2048", "rsa4096"}

// ParseKeyKind reads p256, p384, rsa2048 or rsa4096.
func ParseKeyKind(s string) (KeyKind, error) {
	if !slices.Contains(keyKinds, s) {
		return KeyKind{}, fmt.Errorf("%q: one of %s", s, strings.Join(keyKinds, ", "))
	}
	return KeyKind{s}, nil
}

func (k KeyKind) String() string { return cmp.Or(k.name, keyKinds[0]) }

func (k KeyKind) generate() (crypto.Signer, error) {
	switch k.String() {
	case "p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "rsa4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// describeKey names the algorithm and size of a public key, for people.
func describeKey(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	}
	return fmt.Sprintf("%T", key)
}

// checkKey holds a public key to the policy for leaves and issuers alike: P-256,
// P-384, or RSA of 2048 to 4096 bits with the usual exponent. It costs nothing,
// and must come before any verification with the key: one RSA signature of 65536
// bits and a large exponent takes a fifth of a second to check.
func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return fmt.Errorf("ECDSA on %s: only P-256 and P-384 are accepted", k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fmt.Errorf("RSA of %d bits: only 2048 to 4096 are accepted", n)
		}
		if k.N.Bit(0) == 0 {
			return errors.New("RSA: even modulus")
		}
		if k.E != 65537 {
			return fmt.Errorf("RSA with exponent %d: only 65537 is accepted", k.E)
		}
	default:
		return fmt.Errorf("%T: only ECDSA and RSA are accepted", key)
	}
	return nil
}

// equalKeys reports whether two public keys that passed checkKey are the same.
func equalKeys(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// parsePrivateKey reads the one PEM block of a private key in PKCS#8, SEC 1 or
// PKCS#1, the last two being what older CAs wrote. Its errors tell nothing of
// the key.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	if len(trimSpace(rest)) > 0 {
		return nil, errors.New("more than one PEM block")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("PEM block of type %q is no private key", block.Type)
	}
	if err != nil {
		return nil, errors.New("cannot be parsed")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T cannot sign", key)
	}
	return signer, nil
}

// encodePrivateKey writes a key as PKCS#8 in PEM.
func encodePrivateKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("private key cannot be encoded")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
