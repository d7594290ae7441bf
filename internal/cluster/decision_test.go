package cluster

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	later := now.Add(time.Hour)
	account := mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "u2"}
	gone := mesh.ServiceAccount{Namespace: "shop", Name: "cart"}
	secret := func(changes ...func(*corev1.Secret)) *corev1.Secret {
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Name: "istio.cart", Namespace: "shop", Labels: map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "cart", UID: "u2"}},
			},
			Type: mesh.WorkloadSecretType,
			Data: map[string][]byte{certKey: certLine(account, later)},
		}
		for _, change := range changes {
			change(s)
		}
		return s
	}
	spoilt := func(s *corev1.Secret) { s.Data = nil }
	due := func(s *corev1.Secret) { s.Data[certKey] = certLine(account, now) }
	immutable := func(s *corev1.Secret) { yes := true; s.Immutable = &yes }
	earlier := func(s *corev1.Secret) { s.OwnerReferences[0].UID = "u1" }
	unlabelled := func(s *corev1.Secret) { s.Labels = nil }
	unowned := func(s *corev1.Secret) { s.OwnerReferences = nil }
	ending := func(s *corev1.Secret) { at := metav1.NewTime(now); s.DeletionTimestamp = &at }
	ignored := decision{}
	for name, c := range map[string]struct {
		account mesh.ServiceAccount
		wanted  bool
		secret  *corev1.Secret
		want    decision
	}{
		"good":                          {account, true, secret(), decision{renew: later}},
		"good and immutable":            {account, true, secret(immutable), decision{renew: later}},
		"absent":                        {account, true, nil, decision{change: created}},
		"absent, not wanted":            {account, false, nil, ignored},
		"absent, no account":            {gone, false, nil, ignored},
		"due":                           {account, true, secret(due), decision{change: renewed}},
		"due, immutable":                {account, true, secret(due, immutable), decision{change: renewed, anew: true}},
		"spoilt":                        {account, true, secret(spoilt), decision{change: repaired, why: errSpoilt}},
		"spoilt, immutable":             {account, true, secret(spoilt, immutable), decision{change: repaired, why: errSpoilt, anew: true}},
		"label lost":                    {account, true, secret(unlabelled), decision{change: repaired, why: cmpopts.AnyError}},
		"owner lost":                    {account, true, secret(unowned), decision{change: repaired, why: cmpopts.AnyError}},
		"another's, taken over":         {account, true, secret(unlabelled, unowned), decision{change: repaired, why: cmpopts.AnyError}},
		"of an earlier account":         {account, true, secret(earlier), decision{change: repaired, why: cmpopts.AnyError, anew: true}},
		"of an earlier one, not wanted": {account, false, secret(earlier), decision{change: removed}},
		"being deleted":                 {account, true, secret(ending, spoilt), ignored},
		"not wanted":                    {account, false, secret(), ignored},
		"not wanted and spoilt":         {account, false, secret(spoilt), ignored},
		"account gone":                  {gone, false, secret(), decision{change: removed}},
		"account gone, owner lost":      {gone, false, secret(unowned), decision{change: removed}},
		"account gone, not labelled":    {gone, false, secret(unlabelled), ignored},
		"earlier account, not labelled": {account, false, secret(earlier, unlabelled), ignored},
		"owned by something else as well": {account, true, secret(func(s *corev1.Secret) {
			s.OwnerReferences = append([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ServiceAccount", UID: "x"}}, s.OwnerReferences...)
		}), decision{renew: later}},
	} {
		before := c.secret.DeepCopy()
		got := keeper(t).decide(c.account, c.wanted, c.secret, now)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(decision{}), cmpopts.EquateErrors()); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
		if !cmp.Equal(before, c.secret) {
			t.Errorf("%s: the Secret was changed", name)
		}
	}
}
