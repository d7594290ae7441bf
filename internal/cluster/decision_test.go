package cluster

import (
	"testing"
	"time"
	"unique"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestJudge(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	later := now.Add(time.Hour)
	account := mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "u2"}
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
	immutable := func(s *corev1.Secret) { s.Immutable = new(true) }
	earlier := func(s *corev1.Secret) { s.OwnerReferences[0].UID = "u1" }
	unlabelled := func(s *corev1.Secret) { s.Labels = nil }
	unowned := func(s *corev1.Secret) { s.OwnerReferences = nil }
	ending := func(s *corev1.Secret) { s.DeletionTimestamp = new(metav1.NewTime(now)) }
	for name, c := range map[string]struct {
		secret *corev1.Secret
		want   decision
	}{
		"good":               {secret(), decision{renew: later}},
		"good and immutable": {secret(immutable), decision{renew: later}},
		"due":                {secret(due), decision{change: renewed}},
		"due, immutable":     {secret(due, immutable), decision{change: renewed, anew: true}},
		"spoilt":             {secret(spoilt), decision{change: repaired, why: errSpoilt}},
		"spoilt, immutable":  {secret(spoilt, immutable), decision{change: repaired, why: errSpoilt, anew: true}},
		"label lost":         {secret(unlabelled), decision{change: repaired, why: cmpopts.AnyError}},
		"owner lost":         {secret(unowned), decision{change: repaired, why: cmpopts.AnyError}},
		"another's":          {secret(unlabelled, unowned), decision{change: repaired, why: cmpopts.AnyError}},
		"of an earlier life": {secret(earlier), decision{change: repaired, why: errEarlier, anew: true}},
		"being deleted":      {secret(ending, spoilt), decision{}},
		"of another's, too": {secret(func(s *corev1.Secret) {
			s.OwnerReferences = append([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ServiceAccount", UID: "x"}}, s.OwnerReferences...)
		}), decision{renew: later}},
	} {
		before := c.secret.DeepCopy()
		got := keeper(t).judge(account, c.secret, now)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(decision{}), cmpopts.EquateErrors()); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
		if !cmp.Equal(before, c.secret) {
			t.Errorf("%s: the Secret was changed", name)
		}
	}
}

func TestGlance(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	soon, later := now.Add(time.Minute), now.Add(time.Hour)
	// A Secret that was verified, and one that this process has not read yet.
	verified := func(changes ...func(*glimpse)) glimpse {
		g := glimpse{
			account: mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "u2"},
			wanted:  true,
			seen: &secretSight{
				sight: sight{uid: "s1", version: "7"}, owner: "u2", managed: true,
				hints: hints{expires: later.Unix(), roots: unique.Make("r1"), account: "u2"},
			},
			last:    verdict{version: "7", account: "u2", basis: unique.Make(Basis{Roots: "r1", Chain: "c1"}), renew: later},
			basis:   Basis{Roots: "r1", Chain: "c1"},
			patient: soon,
		}
		for _, change := range changes {
			change(&g)
		}
		return g
	}
	unread := func(changes ...func(*glimpse)) glimpse {
		return verified(append([]func(*glimpse){func(g *glimpse) { g.last = verdict{} }}, changes...)...)
	}
	absent := func(g *glimpse) { g.seen = nil }
	gone := func(g *glimpse) { g.account.UID, g.wanted = "", false }
	unwanted := func(g *glimpse) { g.wanted = false }
	earlier := func(g *glimpse) { g.seen.owner = "u1" }
	unmanaged := func(g *glimpse) { g.seen.managed = false }
	barred := func(g *glimpse) { g.basis.Revoked, g.basis.Barred = "v1", true }
	for name, c := range map[string]struct {
		glimpse
		step step
		at   time.Time
	}{
		"absent":                      {unread(absent), doCreate, time.Time{}},
		"absent, not wanted":          {unread(absent, unwanted), doNothing, time.Time{}},
		"absent, no account":          {unread(absent, gone), doNothing, time.Time{}},
		"deleted, verified before":    {verified(absent), doCreate, time.Time{}},
		"being deleted":               {unread(func(g *glimpse) { g.seen.ending = true }), doNothing, time.Time{}},
		"account gone":                {verified(gone), doRemove, time.Time{}},
		"account gone, owner lost":    {unread(gone, func(g *glimpse) { g.seen.owner = "" }), doRemove, time.Time{}},
		"account gone, not ours":      {unread(gone, unmanaged), doNothing, time.Time{}},
		"earlier, not wanted":         {unread(unwanted, earlier), doRemove, time.Time{}},
		"earlier, not wanted or ours": {unread(unwanted, earlier, unmanaged), doNothing, time.Time{}},
		"not wanted":                  {verified(unwanted), doNothing, time.Time{}},
		"not wanted, not read":        {unread(unwanted), doNothing, time.Time{}},

		"absent, barred":                  {unread(absent, barred), doNothing, time.Time{}},
		"barred":                          {verified(barred), doRemove, time.Time{}},
		"barred, not read":                {unread(barred), doRemove, time.Time{}},
		"barred, made by Istio's Citadel": {unread(barred, unmanaged), doRemove, time.Time{}},
		"barred, not wanted":              {verified(barred, unwanted), doRemove, time.Time{}},
		"barred, neither wanted nor ours": {unread(barred, unwanted, unmanaged), doNothing, time.Time{}},
		"barred, being deleted":           {unread(barred, func(g *glimpse) { g.seen.ending = true }), doNothing, time.Time{}},
		"another certificate was revoked": {verified(func(g *glimpse) { g.basis.Revoked = "v1" }), doRead, time.Time{}},

		"verified":              {verified(), doWait, later},
		"due":                   {verified(func(g *glimpse) { g.last.renew = now }), doRenew, time.Time{}},
		"of other roots":        {verified(func(g *glimpse) { g.basis.Roots = "r2" }), doRenew, time.Time{}},
		"of another chain":      {verified(func(g *glimpse) { g.basis.Chain = "c2" }), doRead, time.Time{}},
		"changed since":         {verified(func(g *glimpse) { g.seen.version = "8" }), doRead, time.Time{}},
		"for another account":   {verified(func(g *glimpse) { g.account.UID = "u3" }), doRead, time.Time{}},
		"verified, odd hints":   {verified(func(g *glimpse) { g.seen.hints = hints{} }), doWait, later},
		"verified, but suspect": {verified(func(g *glimpse) { g.suspect = true; g.seen.version = "8" }), doRead, time.Time{}},

		"to be read":               {unread(), doWait, soon},
		"to be read, no more time": {unread(func(g *glimpse) { g.patient = now }), doRead, time.Time{}},
		"not read, suspect":        {unread(func(g *glimpse) { g.suspect = true }), doRead, time.Time{}},
		"says it has expired":      {unread(func(g *glimpse) { g.seen.hints.expires = now.Unix() }), doRead, time.Time{}},
		"says nothing of its end":  {unread(func(g *glimpse) { g.seen.hints.expires = 0 }), doRead, time.Time{}},
		"says it has other roots":  {unread(func(g *glimpse) { g.seen.hints.roots = unique.Make("r2") }), doRead, time.Time{}},
		"says it is another's":     {unread(func(g *glimpse) { g.seen.hints.account = "u1" }), doRead, time.Time{}},
		"label lost":               {unread(unmanaged), doRead, time.Time{}},
		"owner lost":               {unread(func(g *glimpse) { g.seen.owner = "" }), doRead, time.Time{}},
		"of an earlier account":    {unread(earlier), doRead, time.Time{}},
		"made by Istio's Citadel":  {unread(unmanaged, func(g *glimpse) { g.seen.owner, g.seen.hints = "", hints{} }), doRead, time.Time{}},
	} {
		step, at := c.glance(now)
		if step != c.step || !at.Equal(c.at) {
			t.Errorf("%s: %q at %v, want %q at %v", name, step, at, c.step, c.at)
		}
	}
}
