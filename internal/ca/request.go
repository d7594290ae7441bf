package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/garrison-mesh/garrison/internal/identity"
)

// maxRequest is the largest CSR that is read, in bytes. One with an RSA key of
// 4096 bits has below two thousand.
const maxRequest = 16 << 10

// Request is a CSR whose size, syntax, key and algorithms are acceptable. The
// public key is the only part of it that can get into a certificate. Whether its
// sender has the private key is proven while it is signed, not before.
type Request struct {
	der  []byte
	key  crypto.PublicKey
	uris []string // what the CSR claims to be, for checkNames
}

// ParseRequest reads a CSR: exactly one PEM block and nothing around it but white
// space, at most 16 KiB. Its errors name the part at fault, and may be shown to
// the client.
func ParseRequest(csr string) (Request, error) {
	r, err := parseRequest(csr)
	if err != nil {
		return Request{}, fmt.Errorf("csr: %w", err)
	}
	return r, nil
}

func parseRequest(csr string) (Request, error) {
	if err := checkSize(csr); err != nil {
		return Request{}, err
	}
	block, err := onlyBlock([]byte(csr))
	if err != nil {
		return Request{}, fmt.Errorf("PEM: %w", err)
	}
	if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return Request{}, fmt.Errorf("PEM: block of type %q, not CERTIFICATE REQUEST", block.Type)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return Request{}, err
	}
	if err := checkKey(parsed.PublicKey); err != nil {
		return Request{}, breaks(RuleCSRKey, fmt.Errorf("key: %w", err))
	}
	if err := checkAlgorithm(parsed.SignatureAlgorithm); err != nil {
		return Request{}, breaks(RuleCSRAlgorithm, fmt.Errorf("signature: %w", err))
	}
	r := Request{der: block.Bytes, key: parsed.PublicKey}
	for _, uri := range parsed.URIs {
		r.uris = append(r.uris, uri.String())
	}
	return r, nil
}

func checkSize(csr string) error {
	if len(csr) > maxRequest {
		return fmt.Errorf("%d bytes, at most %d", len(csr), maxRequest)
	}
	return nil
}

// checkNames refuses a request that claims to be somebody else than who. A URI in
// a CSR is such a claim, and each must name who's namespace and service account;
// the trust domain may differ, as clients are often told a wrong one. A request
// that claims nothing is fine. DNS names, addresses and subjects are no claims to
// an identity of the mesh: they are dropped like all else.
func (r Request) checkNames(who identity.ID) error {
	for _, uri := range r.uris {
		claim, err := identity.Parse(uri)
		if err != nil {
			return fmt.Errorf("csr: subject alternative name %w", err)
		}
		if claim.Namespace() != who.Namespace() || claim.Account() != who.Account() {
			return fmt.Errorf("csr: subject alternative name %q: the caller is %s", uri, who)
		}
	}
	return nil
}

// checkAlgorithm refuses hashes that allow collisions, and whatever is unknown.
// The standard library still takes SHA-1 in CSRs.
func checkAlgorithm(a x509.SignatureAlgorithm) error {
	switch a {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return nil
	}
	return fmt.Errorf("algorithm %s is not accepted", a)
}

// onlyBlock decodes text that is a single PEM block without headers. What stands
// before or after a block would be seen by other parsers than ours, or by none.
func onlyBlock(text []byte) (*pem.Block, error) {
	text = trimSpace(text)
	if !bytes.HasPrefix(text, []byte("-----BEGIN ")) {
		return nil, errors.New("does not begin with a block")
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("malformed block")
	}
	if len(rest) > 0 {
		return nil, errors.New("data after the first block")
	}
	if len(block.Headers) > 0 {
		return nil, errors.New("block with headers")
	}
	// Decode skips malformed blocks on its way to a good one.
	if n := bytes.Count(text, []byte("-----BEGIN ")); n != 1 {
		return nil, fmt.Errorf("%d blocks", n)
	}
	return block, nil
}

func trimSpace(text []byte) []byte { return bytes.Trim(text, " \t\r\n") }
