package cluster

import (
	"sync"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// verdict is what was found of one version of a Secret when its content was last read
// or written. It is worth nothing for any other version.
type verdict struct {
	version string               // of the Secret: no two have the same, whenever they were made
	account types.UID            // whom it was good for
	basis   unique.Handle[Basis] // what it was good by
	renew   time.Time
}

// of reports whether the verdict is about what the watch shows, for this account.
func (v verdict) of(seen *secretSight, account mesh.ServiceAccount) bool {
	return v.version != "" && v.version == seen.version && v.account == uidOf(account)
}

// verdicts are those of all Secrets, and which of them were seen to change since.
type verdicts struct {
	mu       sync.Mutex
	known    map[key]verdict
	suspects map[key]struct{}
}

func newVerdicts() *verdicts {
	return &verdicts{known: map[key]verdict{}, suspects: map[key]struct{}{}}
}

// of returns the verdict, the zero one where there is none, and whether the Secret
// changed since this process looks at it.
func (v *verdicts) of(k key) (last verdict, suspect bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, suspect = v.suspects[k]
	return v.known[k], suspect
}

// good takes down that this version of the account's Secret is.
func (v *verdicts) good(k key, account mesh.ServiceAccount, secret *corev1.Secret, basis Basis, renew time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known[k] = verdict{version: secret.ResourceVersion, account: uidOf(account), basis: unique.Make(basis), renew: renew}
	delete(v.suspects, k)
}

// suspect takes down that somebody changed the Secret, and reports whether it was
// somebody else: this version is none that was written or verified here.
func (v *verdicts) suspect(k key, seen *secretSight) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known[k].version == seen.version {
		return false
	}
	v.suspects[k] = struct{}{}
	return true
}

// forget drops what is known of a Secret, and returns it.
func (v *verdicts) forget(k key) verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	last := v.known[k]
	delete(v.known, k)
	delete(v.suspects, k)
	return last
}

// doubt takes down that a Secret has to be read, whatever its annotations say.
func (v *verdicts) doubt(k key) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.suspects[k] = struct{}{}
	delete(v.known, k)
}
