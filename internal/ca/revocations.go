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
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// errRevocations: nobody can be told from those who are revoked.
var errRevocations = errors.New("revocations are not read yet")

// errRevoked: the caller or its certificate is revoked.
var errRevoked = errors.New("revoked")

// Revocations are those in use. They are empty but unread at first, and until
// [Revocations.Set] nothing is issued. A nil *Revocations revokes nothing.
type Revocations struct {
	current atomic.Pointer[revoked]
	spoilt  atomic.Pointer[string] // why what was found last is not in use; nil where it is
}

// revoked never changes.
type revoked struct {
	accounts map[mesh.ServiceAccount][]Revocation // without UIDs
	serials  map[string]Revocation
	listed   string // digest of the serials; empty where there are none
}

// Set takes the ConfigMap's content from now on, or none for nil, and reports how many
// revocations there are. On error those before stay in use.
func (r *Revocations) Set(configMap *corev1.ConfigMap) (n int, err error) {
	defer func() {
		if r.spoilt.Store(nil); err != nil {
			text := err.Error()
			r.spoilt.Store(&text)
		}
	}()
	var all []Revocation
	if configMap != nil {
		if len(configMap.BinaryData) > 0 {
			return 0, errors.New("holds binary data")
		}
		if all, err = ParseRevocations(configMap.Data); err != nil {
			return 0, err
		}
	}
	next := &revoked{accounts: map[mesh.ServiceAccount][]Revocation{}, serials: map[string]Revocation{}}
	for _, v := range all {
		if v.Serial != "" {
			next.serials[v.Serial] = v
			continue
		}
		id, err := identity.Parse(v.ID)
		if err != nil {
			return 0, err
		}
		account := mesh.ServiceAccount{Namespace: id.Namespace(), Name: id.Account()}
		next.accounts[account] = append(next.accounts[account], v)
	}
	if serials := slices.Sorted(maps.Keys(next.serials)); len(serials) > 0 {
		next.listed = digest([]byte(strings.Join(serials, " ")))
	}
	r.current.Store(next)
	return len(all), nil
}

// basis returns a digest of what the certificate in an account's Secret may be revoked
// by, empty for nothing, and whether the account is for good.
func (r *Revocations) basis(account mesh.ServiceAccount) (of string, barred bool) {
	if r == nil || r.current.Load() == nil {
		return "", false
	}
	current := r.current.Load()
	of = current.listed
	for _, v := range current.accounts[mesh.ServiceAccount{Namespace: account.Namespace, Name: account.Name}] {
		if v.Before == nil {
			barred = true
			continue
		}
		of += " before " + v.Before.UTC().Format(time.RFC3339Nano)
	}
	return of, barred
}

// Ready reports why nobody can be told from the revoked, for readiness.
func (r *Revocations) Ready() error {
	if r != nil && r.current.Load() == nil {
		return errRevocations
	}
	return nil
}

// Notices are what a human must do: whoever was added to a ConfigMap that is spoilt is not
// revoked.
func (r *Revocations) Notices() []string {
	if r == nil {
		return nil
	}
	if why := r.spoilt.Load(); why != nil {
		return []string{"revocations: config map " + mesh.RevocationsConfigMap + " is not in use: " + *why}
	}
	return nil
}

// check returns an error for an identity that is revoked as far as proven goes, and
// for a certificate, nil for none.
func (r *Revocations) check(id identity.ID, proven time.Time, serial *big.Int) error {
	if r == nil {
		return nil
	}
	current := r.current.Load()
	if current == nil {
		return breaks(RuleRevocations, errRevocations)
	}
	// An account has one identity, whatever the trust domain is spelled like: a
	// revocation that is off by one letter must not leave it in.
	for _, v := range current.accounts[mesh.ServiceAccount{Namespace: id.Namespace(), Name: id.Account()}] {
		if v.Before == nil || proven.Before(*v.Before) {
			return breaks(RuleRevoked, fmt.Errorf("%w: %s: %s", errRevoked, id, v.Reason))
		}
	}
	if serial == nil {
		return nil
	}
	if v, ok := current.serials[serial.Text(16)]; ok {
		return breaks(RuleRevoked, fmt.Errorf("%w: certificate %s: %s", errRevoked, v.Serial, v.Reason))
	}
	return nil
}
