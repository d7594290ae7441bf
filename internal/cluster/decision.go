package cluster

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// change is what happens to a Secret; the strings are metric labels.
type change string

const (
	none     change = ""
	created  change = "created"
	renewed  change = "renewed"
	repaired change = "repaired"
	removed  change = "removed"
)

// step is what to do with an account's Secret as far as can be said without reading
// it.
type step string

const (
	doNothing step = ""     // it is not kept, or there is none to keep
	doWait    step = "wait" // it needs nothing until then
	doRead    step = "read" // its content decides
	doCreate  step = "create"
	doRenew   step = "renew" // it was good when last read, and nobody touched it since
	doRemove  step = "remove"
)

// glimpse is what is known of an account's Secret without reading it.
type glimpse struct {
	account mesh.ServiceAccount // without UID: there is none
	wanted  bool                // it is to have a Secret
	seen    *secretSight        // nil: there is none
	last    verdict
	suspect bool      // the Secret changed while this process was watching
	basis   Basis     // what the Secret is good by today
	patient time.Time // until then a look at all Secrets may be under way
}

// glance decides from the metadata, and from what was found when the Secret was last
// read. Annotations are believed in one thing: that a Secret which they say is good,
// and which nobody has touched since this process began to watch, may wait for its turn
// in the first look at all of them.
func (g glimpse) glance(now time.Time) (step, time.Time) {
	seen := g.seen
	switch {
	case seen == nil && g.wanted && !g.basis.Barred:
		return doCreate, time.Time{}
	case seen == nil, seen.ending: // its end is an event
		return doNothing, time.Time{}
	case g.account.UID == "" || !g.wanted && seen.owner != "" && seen.owner != types.UID(g.account.UID):
		if seen.managed {
			return doRemove, time.Time{}
		}
		return doNothing, time.Time{}
	case g.basis.Barred && (g.wanted || seen.managed):
		return doRemove, time.Time{}
	case !g.wanted:
		return doNothing, time.Time{}
	case g.last.of(seen, g.account) && g.last.basis.Value() == g.basis:
		if g.last.renew.After(now) {
			return doWait, g.last.renew
		}
		return doRenew, time.Time{}
	case g.last.of(seen, g.account) && g.last.basis.Value().Roots != g.basis.Roots:
		return doRenew, time.Time{}
	case g.last.version == "" && !g.suspect && now.Before(g.patient) && g.plausible(now):
		return doWait, g.patient
	}
	return doRead, time.Time{}
}

// plausible reports whether a Secret claims to be what it should be.
func (g glimpse) plausible(now time.Time) bool {
	uid, h := types.UID(g.account.UID), g.seen.hints
	return g.seen.managed && g.seen.owner == uid && h.account == uid &&
		h.roots.Value() == g.basis.Roots && time.Unix(h.expires, 0).After(now)
}

// decision is what to do with one account's Secret that was read.
type decision struct {
	change change
	anew   bool      // the Secret has to be deleted first: it cannot be updated
	why    error     // what was wrong with it
	renew  time.Time // for none: when to look again; zero for a Secret that is not kept
}

// judge compares a Secret with what the account's should be. Nothing in it is believed
// but what Check vouches for.
func (k SecretKeeper) judge(account mesh.ServiceAccount, secret *corev1.Secret, now time.Time) decision {
	owner := ownerOf(secret)
	switch {
	case secret.DeletionTimestamp != nil:
		return decision{}
	case owner != "" && owner != types.UID(account.UID):
		// The garbage collector may have this Secret in hand, so it makes room.
		return decision{change: repaired, anew: true, why: errEarlier}
	}
	anew := secret.Immutable != nil && *secret.Immutable
	if owner == "" || secret.Labels[mesh.ManagedByLabel] != mesh.ManagedBy {
		return decision{change: repaired, anew: anew, why: errors.New("owner or label missing")}
	}
	renew, err := k.Check(account, secret, now)
	switch {
	case err != nil:
		return decision{change: repaired, anew: anew, why: err}
	case !renew.After(now):
		return decision{change: renewed, anew: anew}
	}
	return decision{renew: renew}
}

// errEarlier is no tampering: names are used again.
var errEarlier = errors.New("made for an earlier account of the same name")

// ownerOf returns the UID of the service account that a Secret says it belongs to.
func ownerOf(secret metav1.Object) types.UID {
	for _, owner := range secret.GetOwnerReferences() {
		if isAccount(owner) {
			return owner.UID
		}
	}
	return ""
}

func isAccount(owner metav1.OwnerReference) bool {
	return owner.APIVersion == "v1" && owner.Kind == "ServiceAccount"
}

// terminating reports whether nothing new may live in a namespace.
func terminating(ns *corev1.Namespace) bool {
	return ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating
}
