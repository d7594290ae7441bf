package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// join finds where the path enters the roots, and for how long all of it is valid.
// Of several roots with one key, any will do for a client.
func (i *issuer) join(path []*x509.Certificate) error {
	for n, c := range path[1:] {
		if err := signedBy(path[n], c); err != nil {
			return fmt.Errorf("certificate %q: not signed by the next one, %q: %w", path[n].Subject, c.Subject, err)
		}
	}
	last := path[len(path)-1]
	hangsFrom := func(root *x509.Certificate) bool { return signedBy(last, root) == nil }
	i.chain = path
	if slices.ContainsFunc(i.roots, last.Equal) {
		if i.chain = path[:len(path)-1]; len(i.chain) == 0 {
			hangsFrom = last.Equal
		} else {
			last = i.chain[len(i.chain)-1]
		}
	}
	for _, root := range i.roots {
		if !hangsFrom(root) {
			continue
		}
		i.anchors = append(i.anchors, root)
		if i.notBefore.IsZero() || root.NotBefore.Before(i.notBefore) {
			i.notBefore = root.NotBefore
		}
		if root.NotAfter.After(i.notAfter) {
			i.notAfter = root.NotAfter
		}
	}
	if len(i.anchors) == 0 {
		return fmt.Errorf("certificate %q: is not one of the roots, and none of them signed it", last.Subject)
	}
	for _, c := range i.chain {
		if slices.ContainsFunc(i.roots, c.Equal) {
			return fmt.Errorf("certificate %q: is a root, but does not come last", c.Subject)
		}
		if c.NotBefore.After(i.notBefore) {
			i.notBefore = c.NotBefore
		}
		if c.NotAfter.Before(i.notAfter) {
			i.notAfter = c.NotAfter
		}
	}
	return nil
}

// signs reports whether a CA is the one that signs leaves, or was before.
func (i *issuer) signs(ca *x509.Certificate) bool {
	return ca.Equal(i.cert) || i.origin.root != nil && ca.Equal(i.origin.root.cert) || slices.ContainsFunc(i.earlier, ca.Equal)
}

// signedBy checks the signature of one CA certificate by another. The key comes
// first: a huge one would take long to verify with.
func signedBy(child, parent *x509.Certificate) error {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return errors.New("names another issuer")
	}
	if err := checkKey(parent.PublicKey); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	return child.CheckSignatureFrom(parent)
}

// selfIssued reports whether a certificate is a root that every verifier stops at; some
// go on to its issuer, though it is trusted.
func selfIssued(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) &&
		(len(c.AuthorityKeyId) == 0 || len(c.SubjectKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId))
}

func encodeCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// encodeCertificates writes certificates one after the other, each with its newline.
func encodeCertificates(certs []*x509.Certificate) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, encodeCertificate(c)...)
	}
	return text
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
