package cluster

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// decision is what to do with one account's Secret.
type decision struct {
	change change
	anew   bool      // the Secret has to be deleted first: it cannot be updated
	why    error     // what was wrong with it
	renew  time.Time // for none: when to look again; zero for a Secret that is not kept
}

// decide compares the Secret, nil where there is none, with what it should be. An
// account without UID does not exist.
func (k SecretKeeper) decide(account mesh.ServiceAccount, wanted bool, secret *corev1.Secret, now time.Time) decision {
	if secret == nil {
		if wanted {
			return decision{change: created}
		}
		return decision{}
	}
	owner := ownerOf(secret)
	switch {
	case secret.DeletionTimestamp != nil:
		return decision{} // its end is an event
	case account.UID == "" || !wanted && owner != "" && owner != account.UID:
		if secret.Labels[mesh.ManagedByLabel] != mesh.ManagedBy {
			return decision{}
		}
		return decision{change: removed}
	case !wanted:
		return decision{}
	case owner != "" && owner != account.UID:
		// The garbage collector may have this Secret in hand, so it makes room.
		return decision{change: repaired, anew: true, why: errors.New("made for an earlier account of the same name")}
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

// ownerOf returns the UID of the service account that a Secret says it belongs to.
func ownerOf(secret *corev1.Secret) string {
	for _, owner := range secret.OwnerReferences {
		if isAccount(owner) {
			return string(owner.UID)
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
