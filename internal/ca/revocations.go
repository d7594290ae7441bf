package ca

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/elapsed"
	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

var (
	// errRevocations: nobody can be told from those who are revoked.
	errRevocations = errors.New("revocations are not read yet")
	// errRevoked: the caller or its certificate is revoked.
	errRevoked = errors.New("revoked")
)

// RevocationsOptions are the settings of [Revocations]. Zero values mean defaults.
type RevocationsOptions struct {
	// Window is how long after [Revocations.Confirm] they are believed; 0: for ever, for tests and those who only look; a server sets it.
	Window time.Duration
	// Own is the account that Citadel itself serves as: a revocation that bars it stops
	// whoever asks for its identity, but not the Secret that all others need it to have.
	Own mesh.ServiceAccount
}

// Revocations are those in use. They are empty but unread at first, and until
// [Revocations.Set] nothing is issued; nor is it when nobody has confirmed for longer than
// the window that they are what there is. A nil *Revocations revokes nothing.
type Revocations struct {
	options RevocationsOptions
	current atomic.Pointer[revoked]
	asOf    atomic.Pointer[time.Time] // what is in use was all there was then; nil: at no time
	spoilt  atomic.Pointer[string]    // why what was found last is not in use; nil where it is
}

// NewRevocations returns unread ones.
func NewRevocations(o RevocationsOptions) *Revocations { return &Revocations{options: o} }

// revoked never changes.
type revoked struct {
	accounts map[mesh.ServiceAccount][]Revocation // without UIDs
	serials  map[string]Revocation
	listed   string // digest of the serials; empty where there are none
}

// Confirm says that what was set last, or could not be read, was what there was at that
// moment.
func (r *Revocations) Confirm(asOf time.Time) { r.asOf.Store(&asOf) }

// age is how old the revocations in use may be.
func (r *Revocations) age() time.Duration {
	switch {
	case r == nil:
		return 0
	case r.asOf.Load() == nil:
		return math.MaxInt64
	}
	return elapsed.Since(*r.asOf.Load())
}

// stale returns an error where the revocations are too old to tell anybody from the revoked.
func (r *Revocations) stale() error {
	if age := r.age(); r != nil && r.options.Window > 0 && age > r.options.Window {
		if age == math.MaxInt64 {
			return errRevocations
		}
		return fmt.Errorf("revocations were last read %v ago, at most %v", age.Round(time.Second), r.options.Window)
	}
	return nil
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
// by now, empty for nothing, and whether the account is for good.
func (r *Revocations) basis(account mesh.ServiceAccount, now time.Time) (of string, barred bool) {
	if r == nil || r.current.Load() == nil {
		return "", false
	}
	current := r.current.Load()
	of = current.listed
	for _, v := range current.accounts[mesh.ServiceAccount{Namespace: account.Namespace, Name: account.Name}] {
		if v.Before == nil {
			barred = barred || !r.isOwn(account)
			continue
		}
		of += " before " + v.Before.UTC().Format(time.RFC3339Nano)
		if r.isOwn(account) && v.Bars(account, now) {
			of += ", which is to come" // until then it is spared
		}
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

// isOwn reports whether Citadel itself serves as the account.
func (r *Revocations) isOwn(account mesh.ServiceAccount) bool {
	return account.Namespace == r.options.Own.Namespace && account.Name == r.options.Own.Name
}

// Spared are the revocations of Citadel's own account that its Secret is kept in spite of.
func (r *Revocations) Spared(now time.Time) (ids []string) {
	if r == nil || r.current.Load() == nil {
		return nil
	}
	for _, v := range r.current.Load().accounts[r.options.Own] {
		if v.Bars(r.options.Own, now) {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// ahead are revocations of what is proven before a time that is still to come.
func (r *Revocations) ahead(now time.Time) (found []Revocation) {
	current := r.current.Load()
	if current == nil {
		return nil
	}
	for _, all := range current.accounts {
		for _, v := range all {
			if v.Before != nil && v.Before.After(now) {
				found = append(found, v)
			}
		}
	}
	slices.SortFunc(found, func(a, b Revocation) int { return strings.Compare(a.ID, b.ID) })
	return found
}

// applied reports whether all that was found last is in use, for all that it names.
func (r *Revocations) applied(now time.Time) bool {
	return r == nil || r.spoilt.Load() == nil && len(r.Spared(now)) == 0
}

// Notices are what wants a human: a ConfigMap that is spoilt, times that are still to come,
// an account of Citadel's own that is spared, and a list that is too old.
func (r *Revocations) Notices(now time.Time) (notices []string) {
	if r == nil {
		return nil
	}
	if why := r.spoilt.Load(); why != nil {
		notices = append(notices, "revocations: config map "+mesh.RevocationsConfigMap+" is not in use: "+*why)
	}
	for _, v := range r.ahead(now) {
		notices = append(notices, fmt.Sprintf("revocations: %s is shut out until %s, which is still to come: is the clock right of whoever revoked it?",
			v.ID, v.Before.UTC().Format(time.RFC3339)))
	}
	for _, id := range r.Spared(now) {
		notices = append(notices, "revocations: "+id+
			" is Citadel's own: nobody else gets it, but its Secret is kept, which nothing could be served without")
	}
	if err := r.stale(); err != nil && r.current.Load() != nil {
		notices = append(notices, "nothing is issued: "+err.Error())
	}
	return notices
}

// claim is what a certificate may be revoked by.
type claim struct {
	id     identity.ID
	proven time.Time // when it last was
	serial *big.Int  // of the certificate that proves it; nil: another proof does
	secret bool      // it is, or is to be, in the account's Secret
}

// claimOf is that of a caller who asks for a certificate.
func claimOf(caller Caller, who subject) claim {
	c := claim{id: who.id, proven: caller.Proven}
	if caller.Leaf != nil {
		c.serial = caller.Leaf.SerialNumber
	}
	return c
}

// check returns an error for an identity that is revoked as far as proven goes, and
// for a certificate, nil for none.
func (r *Revocations) check(c claim, now time.Time) error {
	if r == nil {
		return nil
	}
	current := r.current.Load()
	if current == nil {
		return breaks(RuleRevocations, errRevocations)
	}
	// An account has one identity, whatever the trust domain is spelled like: a
	// revocation that is off by one letter must not leave it in.
	account := mesh.ServiceAccount{Namespace: c.id.Namespace(), Name: c.id.Account()}
	for _, v := range current.accounts[account] {
		if c.secret && r.isOwn(account) && v.Bars(account, now) {
			continue
		}
		if v.Before == nil || c.proven.Before(*v.Before) {
			return breaks(RuleRevoked, fmt.Errorf("%w: %s: %s", errRevoked, c.id, v.Reason))
		}
	}
	if c.serial != nil {
		if v, ok := current.serials[c.serial.Text(16)]; ok {
			return breaks(RuleRevoked, fmt.Errorf("%w: certificate %s: %s", errRevoked, v.Serial, v.Reason))
		}
	}
	return breaks(RuleRevocations, r.stale()) // last, as who was revoked is so still
}
