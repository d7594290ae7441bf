package agent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/garrison-mesh/garrison/internal/identity"
)

// Certificate is the pod's identity in use: a leaf that names exactly the pod's
// SPIFFE ID, its key, and the roots that it chains to. One that exists was
// checked; only [request.accept] and [readCertificate] make one.
type Certificate struct {
	chain, key, roots []byte // PEM, leaf first
	leaf              *x509.Certificate
}

// NotAfter is when the certificate ends.
func (c *Certificate) NotAfter() time.Time { return c.leaf.NotAfter }

// request is a fresh key and the CSR that asks for its certificate.
type request struct {
	id  identity.ID
	key *ecdsa.PrivateKey
	csr []byte // PEM
}

// oidSubjectAltName is id-ce-subjectAltName (RFC 5280, 4.2.1.6).
func oidSubjectAltName() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

// newRequest makes a P-256 key and a CSR with an empty subject and the SPIFFE ID
// as its only name, critical as RFC 5280 wants it where the subject is empty.
func newRequest(id identity.ID) (request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return request{}, fmt.Errorf("key: %w", err)
	}
	const uri = 6 // the tag of a uniformResourceIdentifier among the GeneralNames
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: uri, Bytes: []byte(id.String())}})
	if err != nil {
		return request{}, fmt.Errorf("CSR: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName(), Critical: true, Value: san}},
	}, key)
	if err != nil {
		return request{}, fmt.Errorf("CSR: %w", err)
	}
	return request{id: id, key: key, csr: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}, nil
}

// accept checks the CA's answer: the leaf first, then its issuers, the roots as
// the last element, each element one or more PEM certificates.
func (r request) accept(answer []string, now time.Time) (*Certificate, error) {
	if len(answer) < 2 {
		return nil, fmt.Errorf("answer of %d elements, at least leaf and root wanted", len(answer))
	}
	var chain []*x509.Certificate
	for i, element := range answer[:len(answer)-1] {
		certs, err := parseCertificates([]byte(element))
		if err != nil {
			return nil, fmt.Errorf("answer element %d: %w", i, err)
		}
		chain = append(chain, certs...)
	}
	roots, err := parseCertificates([]byte(answer[len(answer)-1]))
	if err != nil {
		return nil, fmt.Errorf("answer's last element: %w", err)
	}
	if !r.key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errors.New("leaf: certifies another key")
	}
	if err := check(chain, roots, r.id, now); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return &Certificate{
		chain: encodeCertificates(chain),
		key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		roots: encodeCertificates(roots),
		leaf:  chain[0],
	}, nil
}

// readCertificate checks a set of PEM files as [request.accept] checks an answer.
func readCertificate(chainPEM, keyPEM, rootsPEM []byte, id identity.ID, now time.Time) (*Certificate, error) {
	// X509KeyPair's own errors name what is wrong, never the key.
	if _, err := tls.X509KeyPair(chainPEM, keyPEM); err != nil {
		return nil, err
	}
	chain, err := parseCertificates(chainPEM)
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	roots, err := parseCertificates(rootsPEM)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	if err := check(chain, roots, id, now); err != nil {
		return nil, err
	}
	return &Certificate{chain: chainPEM, key: keyPEM, roots: rootsPEM, leaf: chain[0]}, nil
}

// check holds a leaf to the one identity that the pod has, and to a chain that
// both sides of a connection will accept.
func check(chain, roots []*x509.Certificate, id identity.ID, now time.Time) error {
	leaf := chain[0]
	if n := len(leaf.URIs) + len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.EmailAddresses); n != 1 || len(leaf.URIs) != 1 {
		return fmt.Errorf("leaf: %d names, want only %s", n, id)
	}
	if got := leaf.URIs[0].String(); got != id.String() {
		return fmt.Errorf("leaf: names %q, want %s", got, id)
	}
	if leaf.IsCA {
		return errors.New("leaf: is a CA")
	}
	rootPool, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		rootPool.AddCert(c)
	}
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots: rootPool, Intermediates: intermediates, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			return fmt.Errorf("leaf: %w", err)
		}
	}
	return nil
}

// parseCertificates reads PEM that holds certificates and nothing else.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, errors.New("not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q, want CERTIFICATE", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
		rest = bytes.TrimSpace(rest)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	return certs, nil
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, c := range certs {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return text.Bytes()
}
