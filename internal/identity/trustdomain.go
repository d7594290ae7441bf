package identity

import (
	"errors"
	"fmt"
)

// DefaultTrustDomain is the trust domain of an installation that names none.
var DefaultTrustDomain = TrustDomain{name: "cluster.local"}

// TrustDomain is the name of a root of trust (SPIFFE-ID standard, section 2.1).
// The zero value is no trust domain.
type TrustDomain struct{ name string }

// ParseTrustDomain checks a trust domain name: at most 255 of the characters
// a-z 0-9 . - _, as SPIFFE has it.
func ParseTrustDomain(name string) (TrustDomain, error) {
	if name == "" {
		return TrustDomain{}, errors.New("trust domain: empty")
	}
	if len(name) > 255 {
		return TrustDomain{}, fmt.Errorf("trust domain: %d characters, at most 255", len(name))
	}
	for _, c := range []byte(name) {
		if !isLower(c) && !isDigit(c) && c != '.' && c != '-' && c != '_' {
			return TrustDomain{}, fmt.Errorf("trust domain %q: only lower case letters, digits, '.', '-' and '_' are allowed", name)
		}
	}
	return TrustDomain{name: name}, nil
}

// IsZero reports whether d is the zero value.
func (d TrustDomain) IsZero() bool { return d.name == "" }

// String returns the bare name, without a scheme.
func (d TrustDomain) String() string { return d.name }
