package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// keep brings one account's Secret to what it should be.
func (s *secretLoop) keep(ctx context.Context, k key) (again time.Duration, err error) {
	g := glimpse{patient: time.Unix(0, s.patient.Load())}
	if g.account, g.wanted, err = s.account(k); err != nil {
		return 0, err
	}
	g.basis = s.Basis(g.account)
	if g.seen, err = s.secret(k); err != nil {
		return 0, err
	}
	g.last, g.suspect = s.verdicts.of(k)
	now := time.Now()
	step, at := g.glance(now)
	if step != doCreate {
		s.setForeign(k, false)
	}
	if g.seen == nil && step == doNothing && s.verdicts.forget(k).version != "" && g.account.UID == "" {
		s.metrics.accountDeleted.Inc() // with its Secret, by the garbage collector
	}
	switch step {
	case doNothing:
		return 0, nil
	case doWait:
		return s.next(at, now), nil
	case doCreate, doRead:
		if pause := s.pause(k); pause > 0 {
			return pause, nil
		}
	}
	if err := s.limit.Wait(ctx); err != nil {
		return 0, err
	}
	at, err = s.do(ctx, step, g)
	if err != nil {
		return 0, fmt.Errorf("secret %s: %w", mesh.WorkloadSecret(k.Name), err)
	}
	return s.next(at, now), nil
}

// next is the time until a Secret has to be looked at again, 0 for one that is not
// kept. The jitter keeps Secrets that were listed together from being looked at
// together ever after.
func (s *secretLoop) next(at, now time.Time) time.Duration {
	if at.IsZero() {
		return 0
	}
	if until := at.Sub(now); until < s.Resync {
		return max(until, time.Millisecond)
	}
	return wait.Jitter(s.Resync*4/5, 0.25)
}

// do carries a step out that needs the API server, and returns when to look again.
func (s *secretLoop) do(ctx context.Context, step step, g glimpse) (time.Time, error) {
	switch step {
	case doRemove:
		return time.Time{}, s.remove(ctx, g)
	case doRead:
		return s.read(ctx, g)
	case doRenew:
		at, err := s.write(ctx, g.account, target{uid: g.seen.uid, version: g.seen.version}, decision{change: renewed})
		if apierrors.IsInvalid(err) { // immutable, or as odd in another way that a look will tell
			return s.read(ctx, g)
		}
		return at, err
	}
	if s.isForeign(key{Namespace: g.account.Namespace, Name: g.account.Name}) {
		// Look before a key is made that nobody would get.
		if blocked, err := s.blockedBy(ctx, g.account); blocked || err != nil {
			return time.Now().Add(foreignRecheck), err
		}
	}
	at, err := s.write(ctx, g.account, target{}, decision{change: created})
	if err == nil && g.last.account == uidOf(g.account) {
		s.metrics.secretDeleted.Inc()
	}
	return at, err
}

// read reads a Secret and does with it what its content asks for.
func (s *secretLoop) read(ctx context.Context, g glimpse) (time.Time, error) {
	k := key{Namespace: g.account.Namespace, Name: g.account.Name}
	live, err := s.api.bulk.CoreV1().Secrets(k.Namespace).Get(ctx, mesh.WorkloadSecret(k.Name), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && live.Type != mesh.WorkloadSecretType:
		return time.Time{}, errBehind(k) // a Secret that is gone for us
	case err != nil:
		return time.Time{}, err
	}
	basis, now := s.Basis(g.account), time.Now()
	do := s.judge(g.account, live, now)
	if do.change == none {
		if !do.renew.IsZero() {
			s.verdicts.good(k, g.account, live, basis, do.renew)
		}
		return do.renew, nil
	}
	return s.write(ctx, g.account, target{uid: live.UID, version: live.ResourceVersion}, do)
}

// target is the version of a Secret that a write is decided from; the zero value is
// that there is none.
type target struct {
	uid     types.UID
	version string
}

// write makes a key and a certificate and puts them in place of the target, or nowhere:
// whoever changed, removed or made the Secret meanwhile wins. Key and certificate
// are of one write, so that a late one cannot part them.
func (s *secretLoop) write(ctx context.Context, account mesh.ServiceAccount, over target, do decision) (renew time.Time, err error) {
	k := key{Namespace: account.Namespace, Name: account.Name}
	basis := s.Basis(account)
	fresh, renew, err := s.fresh(account, time.Now())
	if err != nil {
		return time.Time{}, err
	}
	if do.anew {
		if err := s.delete(ctx, k, over); err != nil {
			return time.Time{}, err
		}
	}
	var written *corev1.Secret
	if do.anew || do.change == created {
		written, err = s.api.bulk.CoreV1().Secrets(k.Namespace).Create(ctx, fresh, metav1.CreateOptions{FieldManager: mesh.CitadelFieldManager})
		if apierrors.IsAlreadyExists(err) {
			if blocked, lookErr := s.blockedBy(ctx, account); blocked || lookErr != nil {
				return time.Now().Add(foreignRecheck), lookErr
			}
			return time.Time{}, errBehind(k)
		}
	} else {
		written, err = s.api.bulk.CoreV1().Secrets(k.Namespace).Apply(ctx, applied(fresh, over),
			metav1.ApplyOptions{FieldManager: mesh.CitadelFieldManager, Force: true})
	}
	if err != nil {
		return time.Time{}, err
	}
	if do.change != renewed {
		s.repaired(k)
	}
	s.setForeign(k, false)
	s.verdicts.good(k, account, written, basis, renew)
	s.report(ctx, account, do, renew)
	if do.change == repaired && !errors.Is(do.why, errEarlier) {
		s.tellRepaired(ctx, account, written, do.why)
	}
	return renew, nil
}

// errBehind is for what the watch does not show yet.
func errBehind(k key) error {
	return apierrors.NewConflict(corev1.Resource("secrets"), mesh.WorkloadSecret(k.Name), errors.New("the watch is behind"))
}

// fresh makes an account's new Secret and puts it to the test before anybody
// else can: a Make and a Check that disagree would otherwise write for ever.
func (s *secretLoop) fresh(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, time.Time, error) {
	made, err := s.Make(account, now)
	if err != nil {
		s.metrics.failed(s.Failure(err))
		return nil, time.Time{}, err
	}
	fresh := made.DeepCopy()
	fresh.Namespace, fresh.Name = account.Namespace, mesh.WorkloadSecret(account.Name)
	fresh.Type = mesh.WorkloadSecretType
	metav1.SetMetaDataLabel(&fresh.ObjectMeta, mesh.ManagedByLabel, mesh.ManagedBy)
	fresh.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "ServiceAccount", Name: account.Name, UID: uidOf(account),
	}}
	renew, err := s.Check(account, fresh, now)
	if err == nil && !renew.After(now) {
		err = fmt.Errorf("to be renewed at %s already", renew.UTC().Format(time.RFC3339))
	}
	if err != nil {
		s.metrics.failed(NotSigned)
		return nil, time.Time{}, fmt.Errorf("as made: %w", err)
	}
	return fresh, renew, nil
}

// applied is what server-side apply puts over a Secret: the fresh one's content and
// account. Labels, annotations, keys and other owners that somebody else put there
// stay. With the UID it cannot create, with the version it cannot overtake.
func applied(fresh *corev1.Secret, over target) *coreapply.SecretApplyConfiguration {
	out := coreapply.Secret(fresh.Name, fresh.Namespace).
		WithUID(over.uid).WithResourceVersion(over.version).
		WithLabels(fresh.Labels).WithAnnotations(fresh.Annotations).
		WithType(fresh.Type).WithData(fresh.Data)
	for _, o := range fresh.OwnerReferences {
		out.WithOwnerReferences(metaapply.OwnerReference().WithAPIVersion(o.APIVersion).WithKind(o.Kind).WithName(o.Name).WithUID(o.UID))
	}
	return out
}

// errBarred is why a Secret goes though its account stays.
var errBarred = errors.New("the account is revoked")

// remove deletes the Secret of an account that is gone, or barred.
func (s *secretLoop) remove(ctx context.Context, g glimpse) error {
	k := key{Namespace: g.account.Namespace, Name: g.account.Name}
	do := decision{change: removed}
	if g.basis.Barred {
		do.why = errBarred
	} else if err := s.confirmGone(ctx, k, g.seen.owner); err != nil {
		return err
	}
	if err := s.delete(ctx, k, target{uid: g.seen.uid, version: g.seen.version}); err != nil {
		return err
	}
	s.verdicts.forget(k)
	if !g.basis.Barred {
		s.metrics.accountDeleted.Inc()
	}
	s.report(ctx, g.account, do, time.Time{})
	return nil
}

// delete removes the very Secret that the decision was made from.
func (s *secretLoop) delete(ctx context.Context, k key, t target) error {
	err := s.api.bulk.CoreV1().Secrets(k.Namespace).Delete(ctx, mesh.WorkloadSecret(k.Name), metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &t.uid, ResourceVersion: &t.version},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// confirmGone asks the API server itself whether the account that owns a Secret is
// gone: the watch of accounts may be behind the watch of Secrets.
func (s *secretLoop) confirmGone(ctx context.Context, k key, owner types.UID) error {
	live, err := s.api.metadata.Resource(accountResource).Namespace(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case owner != "" && live.UID != owner:
		return nil
	}
	return apierrors.NewConflict(corev1.Resource("serviceaccounts"), k.Name, errors.New("exists, but the watch does not show it yet"))
}

func (s *secretLoop) report(ctx context.Context, account mesh.ServiceAccount, do decision, renew time.Time) {
	s.metrics.changes.WithLabelValues(string(do.change)).Inc()
	if do.change == created {
		s.metrics.accountCreated.Inc()
	}
	attrs := []any{"account", account.String(), "change", string(do.change)}
	if do.why != nil {
		attrs = append(attrs, "why", do.why)
	}
	if !renew.IsZero() {
		attrs = append(attrs, "renew", renew.UTC())
	}
	s.log.InfoContext(ctx, "kept secret", attrs...)
}
