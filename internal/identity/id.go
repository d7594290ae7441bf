// Package identity holds the two names that all trust in Garrison hangs on: the
// trust domain and the SPIFFE ID of a Kubernetes service account.
//
// An [ID] that exists is valid: only [New] and [Parse] make one, and nothing
// downstream checks it again. Every ID has exactly one spelling, so IDs may be
// compared with == and as strings alike. The package refuses what SPIFFE allows
// but this mesh never issues: other paths, ports, user info, queries,
// percent-encoding.
//
// Start reading at [ID]. Standard library only.
package identity

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// maxURI is the longest SPIFFE ID that may be issued, in bytes (SPIFFE-ID
// standard, section 2.3).
const maxURI = 2048

// ID is a workload's identity, spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
// The zero value is no identity; [ID.IsZero] tells.
type ID struct {
	domain    TrustDomain
	namespace string
	account   string
}

// New returns the identity of a service account. It fails when one of the parts
// could not be the name of what it stands for in Kubernetes or SPIFFE.
func New(domain TrustDomain, namespace, account string) (ID, error) {
	if domain.IsZero() {
		return ID{}, errors.New("trust domain: empty")
	}
	if err := checkLabel(namespace); err != nil {
		return ID{}, fmt.Errorf("namespace %q: %w", namespace, err)
	}
	if err := checkSubdomain(account); err != nil {
		return ID{}, fmt.Errorf("service account %q: %w", account, err)
	}
	id := ID{domain: domain, namespace: namespace, account: account}
	if n := len(id.String()); n > maxURI {
		return ID{}, fmt.Errorf("SPIFFE ID: %d bytes, at most %d", n, maxURI)
	}
	return id, nil
}

// Parse reads an ID from its one spelling. What it accepts, String gives back
// byte for byte.
func Parse(uri string) (ID, error) {
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return ID{}, fmt.Errorf("%q: does not begin with spiffe://", uri)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return ID{}, fmt.Errorf("%q: not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>", uri)
	}
	domain, err := ParseTrustDomain(parts[0])
	if err != nil {
		return ID{}, fmt.Errorf("%q: %w", uri, err)
	}
	id, err := New(domain, parts[2], parts[4])
	if err != nil {
		return ID{}, fmt.Errorf("%q: %w", uri, err)
	}
	return id, nil
}

// TrustDomain returns the trust domain, never zero for a valid ID.
func (id ID) TrustDomain() TrustDomain { return id.domain }

// Namespace returns the Kubernetes namespace.
func (id ID) Namespace() string { return id.namespace }

// Account returns the name of the Kubernetes service account.
func (id ID) Account() string { return id.account }

// IsZero reports whether id is the zero value, which identifies nobody.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the SPIFFE ID as a URI, or "" for the zero value.
func (id ID) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.domain.String() + "/ns/" + id.namespace + "/sa/" + id.account
}

// URL returns the SPIFFE ID as the URL that goes into a certificate's SAN.
func (id ID) URL() *url.URL {
	return &url.URL{
		Scheme: "spiffe",
		Host:   id.domain.String(),
		Path:   "/ns/" + id.namespace + "/sa/" + id.account,
	}
}

// checkLabel holds a name to RFC 1123 as Kubernetes does for namespaces.
func checkLabel(s string) error {
	if len(s) > 63 {
		return fmt.Errorf("%d characters, at most 63", len(s))
	}
	if strings.Contains(s, ".") {
		return errors.New("only lower case letters, digits and '-' are allowed")
	}
	return checkSubdomain(s)
}

// checkSubdomain holds a name to RFC 1123 as Kubernetes does for service accounts.
func checkSubdomain(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	if len(s) > 253 {
		return fmt.Errorf("%d characters, at most 253", len(s))
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("every part between dots must begin and end with a letter or digit")
		}
		for _, c := range []byte(label) {
			if !isLower(c) && !isDigit(c) && c != '-' {
				return errors.New("only lower case letters, digits, '-' and '.' are allowed")
			}
		}
	}
	return nil
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
