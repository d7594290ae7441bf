package cluster

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// foreignRecheck is how often a name that a foreign Secret takes is looked at
// again: the watch does not show Secrets of other types.
const foreignRecheck = time.Minute

// blockedBy reports whether a Secret of another type has the account's name, and
// if so makes it known.
func (s *secretLoop) blockedBy(ctx context.Context, account mesh.ServiceAccount) (bool, error) {
	name := mesh.WorkloadSecret(account.Name)
	k := key{Namespace: account.Namespace, Name: account.Name}
	live, err := s.api.bulk.CoreV1().Secrets(account.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.Type == mesh.WorkloadSecretType {
		s.setForeign(k, false)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.setForeign(k, true) {
		s.log.WarnContext(ctx, "secret not ours", "secret", k.Namespace+"/"+name, "type", live.Type)
	}
	return true, s.tell(ctx, account, live)
}

// tell writes an Event on the account, one for each foreign Secret as long as the
// API server keeps Events.
func (s *secretLoop) tell(ctx context.Context, account mesh.ServiceAccount, foreign *corev1.Secret) error {
	return s.api.warn(ctx, warning{
		name:   "foreign-secret." + string(foreign.UID),
		about:  objectOf(account),
		reason: "ForeignSecret",
		message: fmt.Sprintf("no certificate for this account: Secret %s has type %s, not %s; delete or rename it",
			foreign.Name, foreign.Type, mesh.WorkloadSecretType),
		by: mesh.CitadelFieldManager,
	})
}

// tellRepaired writes an Event on the account whose Secret was spoilt, unless there are
// too many of them at a time: the log and the metric know of all.
func (s *secretLoop) tellRepaired(ctx context.Context, account mesh.ServiceAccount, secret *corev1.Secret, why error) {
	s.metrics.spoilt.Inc()
	if !s.tells.TryAccept() {
		return
	}
	if err := s.api.warn(ctx, warning{
		name:    "secret-repaired." + string(secret.UID),
		about:   objectOf(account),
		reason:  "SecretRepaired",
		message: fmt.Sprintf("Secret %s was not what Citadel had made, and has a new key and certificate now: %v", secret.Name, why),
		by:      mesh.CitadelFieldManager,
	}); err != nil {
		s.log.WarnContext(ctx, "owner not told", "account", account.String(), "err", err)
	}
}

func objectOf(account mesh.ServiceAccount) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: "v1", Kind: "ServiceAccount", UID: types.UID(account.UID), Namespace: account.Namespace, Name: account.Name,
	}
}

func (s *secretLoop) isForeign(k key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.foreign[k]
}

// setForeign reports whether that was news.
func (s *secretLoop) setForeign(k key, foreign bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.foreign[k] == foreign {
		return false
	}
	if foreign {
		s.foreign[k] = true
	} else {
		delete(s.foreign, k)
	}
	s.metrics.blocked.Set(float64(len(s.foreign)))
	return true
}
