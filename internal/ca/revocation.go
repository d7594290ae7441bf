package ca

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Revocation is one identity or one certificate that gets nothing from Citadel any
// more. It names either an ID or a Serial.
type Revocation struct {
	ID     string `json:"id,omitempty"`     // a SPIFFE ID; its trust domain is not compared
	Serial string `json:"serial,omitempty"` // of a certificate, in hex

	// Before limits the revocation of an ID to what was proven before: a token that is
	// shown later is good again, and so is what it gets. Without it nothing is.
	Before *time.Time `json:"before,omitempty"`

	Reason string     `json:"reason"`         // for people
	Made   *time.Time `json:"made,omitempty"` // for people
}

// maxReason is the longest reason, in bytes.
const maxReason = 500

// check returns the revocation in the one spelling that is compared.
func (r Revocation) check() (Revocation, error) {
	switch {
	case (r.ID == "") == (r.Serial == ""):
		return r, errors.New("needs either an id or a serial")
	case strings.TrimSpace(r.Reason) == "":
		return r, errors.New("needs a reason")
	case len(r.Reason) > maxReason:
		return r, fmt.Errorf("reason of %d bytes, at most %d", len(r.Reason), maxReason)
	case r.Serial != "" && r.Before != nil:
		return r, errors.New("before: only for an id; a certificate is revoked as a whole")
	}
	if r.ID != "" {
		_, err := identity.Parse(r.ID)
		return r, err
	}
	// As openssl and others print it.
	text := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(r.Serial), "0x"), ":", "")
	n, ok := new(big.Int).SetString(text, 16)
	if !ok || n.Sign() <= 0 || len(text) > 40 {
		return r, fmt.Errorf("serial %q: not a number in hex", r.Serial)
	}
	r.Serial = n.Text(16)
	return r, nil
}

// names tells whether two revocations are of the same.
func (r Revocation) names(other Revocation) bool { return r.ID == other.ID && r.Serial == other.Serial }

// Bars reports whether an account is shut out altogether: neither what proves it now nor
// what is made for it now is good.
func (r Revocation) Bars(account mesh.ServiceAccount, now time.Time) bool {
	id, err := identity.Parse(r.ID) // its trust domain is not compared
	return err == nil && id.Namespace() == account.Namespace && id.Account() == account.Name &&
		(r.Before == nil || r.Before.After(now))
}

// ParseRevocations reads the data of the ConfigMap mesh.RevocationsConfigMap. It
// accepts nothing that it does not understand: what is spelled wrongly would
// otherwise revoke nobody.
func ParseRevocations(data map[string]string) ([]Revocation, error) {
	for key := range data {
		if key != mesh.RevocationsKey {
			return nil, fmt.Errorf("%s: not a key of this ConfigMap, which has only %s", key, mesh.RevocationsKey)
		}
	}
	all, err := decodeRevocations([]byte(data[mesh.RevocationsKey]))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mesh.RevocationsKey, err)
	}
	for i, r := range all {
		var err error
		if all[i], err = r.check(); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", mesh.RevocationsKey, i+1, err)
		}
	}
	return all, nil
}

// decodeRevocations takes no number for a text: a serial in digits alone that lacks its
// quotes could be read in octal, and be another certificate's.
func decodeRevocations(text []byte) (all []Revocation, err error) {
	if bytes.Contains(text, []byte("\n---")) {
		return nil, errors.New("a second document, which would not be read")
	}
	inJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(inJSON))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	return all, nil
}

// AddRevocation returns the ConfigMap's data with one more revocation, instead of the
// one that names the same. It does not change data.
func AddRevocation(data map[string]string, r Revocation) (map[string]string, error) {
	r, err := r.check()
	if err != nil {
		return nil, err
	}
	return editRevocations(data, func(all []Revocation) ([]Revocation, error) {
		return append(slices.DeleteFunc(all, r.names), r), nil
	})
}

// RemoveRevocation returns the ConfigMap's data without the revocation of an ID or a
// serial; nothing else of r counts. It is an error if there is none.
func RemoveRevocation(data map[string]string, r Revocation) (map[string]string, error) {
	r, err := Revocation{ID: r.ID, Serial: r.Serial, Reason: "undone"}.check()
	if err != nil {
		return nil, err
	}
	return editRevocations(data, func(all []Revocation) ([]Revocation, error) {
		left := slices.DeleteFunc(slices.Clone(all), r.names)
		if len(left) == len(all) {
			return nil, fmt.Errorf("%s is not revoked", cmp.Or(r.ID, r.Serial))
		}
		return left, nil
	})
}

func editRevocations(data map[string]string, edit func([]Revocation) ([]Revocation, error)) (map[string]string, error) {
	all, err := ParseRevocations(data)
	if err == nil {
		all, err = edit(all)
	}
	if err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(all)
	if err != nil {
		return nil, err
	}
	out := maps.Clone(data)
	if out == nil {
		out = map[string]string{}
	}
	out[mesh.RevocationsKey] = string(text)
	return out, nil
}
