package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
)

// witness lends the signing key for one signature and remembers it, so that a
// certificate can be told to be the very thing that was signed. That the signature
// is right, x509.CreateCertificate verifies itself before it returns; verifying
// it again would be a fifth of the cost of a certificate.
type witness struct {
	key       crypto.Signer
	hash      crypto.Hash
	digest    []byte
	signature []byte
}

func (w *witness) Public() crypto.PublicKey { return w.key.Public() }

// Sign signs once. What asks for a second signature has made two certificates, of
// which only one would be inspected.
func (w *witness) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if w.signature != nil {
		return nil, errors.New("second signature for one certificate")
	}
	signature, err := w.key.Sign(rand, digest, opts)
	if err != nil {
		return nil, err
	}
	w.hash, w.digest, w.signature = opts.HashFunc(), bytes.Clone(digest), signature
	return signature, nil
}

// saw reports whether cert carries the signature, and is what it was made for.
func (w *witness) saw(cert *x509.Certificate) bool {
	if w.signature == nil || !bytes.Equal(cert.Signature, w.signature) || !w.hash.Available() {
		return false
	}
	h := w.hash.New()
	h.Write(cert.RawTBSCertificate)
	return bytes.Equal(h.Sum(nil), w.digest)
}
