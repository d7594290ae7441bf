package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// SecretKeeper says which service accounts get a Secret and what is in it. The
// functions are called by several workers at a time.
type SecretKeeper struct {
	// InScope reports whether the accounts of a namespace get Secrets. Secrets of
	// a namespace that leaves the scope stay, because pods may have mounted them,
	// but are kept up no longer; they go with their account.
	InScope func(*corev1.Namespace) bool

	// Check returns the moment from which the Secret should be renewed, or an error
	// that says what is wrong with it. It must not change the Secret.
	Check func(account mesh.ServiceAccount, secret *corev1.Secret, now time.Time) (renew time.Time, err error)

	// Make returns a new Secret's data, labels and annotations. Name, type, owner
	// and the label that marks it as Garrison's are put in here. What Make returns
	// has to pass Check, with a renewal yet to come, or it is not written.
	Make func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error)

	Resync  time.Duration         // each Secret is checked at least this often; 0: 10 min
	Log     *slog.Logger          // nil: no log
	Metrics prometheus.Registerer // nil: no metrics
}

// KeepSecrets returns a part for the leader: each service account in scope has the
// Secret istio.<account>, created, renewed when due, put right when spoilt, made
// anew when deleted, and removed with the account.
//
// A Secret of that name and another type is not touched: a Warning Event on the
// account, the log and a metric say so. One of the right type that Garrison's
// label does not mark is taken over. An immutable one is replaced by deletion.
func (a *API) KeepSecrets(k SecretKeeper) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := newSecretLoop(a, k)
		if err != nil {
			return err
		}
		defer s.blocked.Set(0) // from now on the next leader tells
		return s.run(ctx)
	}
}

type secretLoop struct {
	*loop
	SecretKeeper
	api        *API
	namespaces cache.Indexer // Namespace
	accounts   cache.Indexer // PartialObjectMetadata
	secrets    cache.Indexer // Secret, of our type
	changes    *prometheus.CounterVec
	blocked    prometheus.Gauge

	mu      sync.Mutex
	foreign map[key]bool // accounts whose Secret's name somebody else has
}

func newSecretLoop(a *API, k SecretKeeper) (*secretLoop, error) {
	if k.Resync <= 0 {
		k.Resync = defaultResync
	}
	s := &secretLoop{loop: newLoop(workers, k.Log), SecretKeeper: k, api: a, foreign: map[key]bool{}}
	s.sync = s.keep
	var err error
	if s.changes, err = registered(k.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "citadel_workload_secret_changes_total",
		Help: "Secrets of service accounts that were created, renewed, repaired or removed.",
	}, []string{"change"})); err != nil {
		return nil, err
	}
	if s.blocked, err = registered(k.Metrics, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "citadel_workload_secrets_blocked",
		Help: "Service accounts without a certificate because a Secret of another type has its name.",
	})); err != nil {
		return nil, err
	}

	namespaces := coreinformers.NewNamespaceInformer(a.Client, 0, cache.Indexers{})
	accounts := metadatainformer.NewFilteredMetadataInformer(a.metadata,
		corev1.SchemeGroupVersion.WithResource("serviceaccounts"), metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
	secrets := coreinformers.NewFilteredSecretInformer(a.Client, metav1.NamespaceAll, 0, cache.Indexers{},
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", mesh.WorkloadSecretType).String()
		})
	s.namespaces, s.accounts, s.secrets = namespaces.GetIndexer(), accounts.GetIndexer(), secrets.GetIndexer()
	return s, errors.Join(
		s.watch(namespaces, func(obj any) {
			ns, ok := obj.(*corev1.Namespace)
			if !ok {
				return
			}
			names, err := s.accounts.IndexKeys(cache.NamespaceIndex, ns.Name)
			if err != nil {
				return // only for an index that does not exist
			}
			for _, name := range names {
				_, account, _ := strings.Cut(name, "/")
				s.queue.Add(key{Namespace: ns.Name, Name: account})
			}
		}),
		s.watch(accounts, func(obj any) {
			if account, ok := obj.(*metav1.PartialObjectMetadata); ok {
				s.queue.Add(key{Namespace: account.Namespace, Name: account.Name})
			}
		}),
		s.watch(secrets, func(obj any) {
			secret, ok := obj.(*corev1.Secret)
			if !ok {
				return
			}
			if account, ok := strings.CutPrefix(secret.Name, mesh.WorkloadSecretPrefix); ok {
				s.queue.Add(key{Namespace: secret.Namespace, Name: account})
			}
		}),
	)
}

// keep brings one account's Secret to what it should be.
func (s *secretLoop) keep(ctx context.Context, k key) (again time.Duration, err error) {
	account, wanted, err := s.account(k)
	if err != nil {
		return 0, err
	}
	secret, err := find[corev1.Secret](s.secrets, key{Namespace: k.Namespace, Name: mesh.WorkloadSecret(k.Name)})
	if err != nil {
		return 0, err
	}
	now := time.Now()
	do := s.decide(account, wanted, secret, now)
	if do.change != created {
		s.setForeign(k, false)
	}
	if do.change == none {
		return s.next(do.renew, now), nil
	}
	if do.change != renewed && do.change != removed {
		if pause := s.pause(k); pause > 0 {
			return pause, nil
		}
	}
	renew, err := s.do(ctx, k, account, secret, do)
	if err != nil {
		return 0, err
	}
	return s.next(renew, now), nil
}

// account returns the account as the watches show it, without UID if there is
// none, and whether it should have a Secret.
func (s *secretLoop) account(k key) (account mesh.ServiceAccount, wanted bool, err error) {
	account = mesh.ServiceAccount{Namespace: k.Namespace, Name: k.Name}
	meta, err := find[metav1.PartialObjectMetadata](s.accounts, k)
	if err != nil || meta == nil {
		return account, false, err
	}
	account.UID = string(meta.UID)
	ns, err := find[corev1.Namespace](s.namespaces, key{Name: k.Namespace})
	if err != nil || ns == nil {
		return account, false, err
	}
	return account, meta.DeletionTimestamp == nil && !terminating(ns) && s.InScope(ns), nil
}

// next is the time until a Secret has to be looked at again, 0 for one that is not
// kept. The jitter keeps Secrets that were listed together from being checked
// together ever after.
func (s *secretLoop) next(renew, now time.Time) time.Duration {
	if renew.IsZero() {
		return 0
	}
	if until := renew.Sub(now); until < s.Resync {
		return max(until, time.Millisecond)
	}
	return wait.Jitter(s.Resync*4/5, 0.25)
}

// do carries a decision out and returns when to look again.
func (s *secretLoop) do(ctx context.Context, k key, account mesh.ServiceAccount, secret *corev1.Secret, do decision) (renew time.Time, err error) {
	name := mesh.WorkloadSecret(k.Name)
	secrets := s.api.Client.CoreV1().Secrets(k.Namespace)
	defer func() {
		if err != nil {
			err = fmt.Errorf("secret %s: %w", name, err)
		}
	}()
	if do.change == removed {
		if err := s.confirmGone(ctx, k, ownerOf(secret)); err != nil {
			return time.Time{}, err
		}
		if err := s.delete(ctx, secret); err != nil {
			return time.Time{}, err
		}
		s.report(ctx, account, do, time.Time{})
		return time.Time{}, nil
	}
	if do.change == created && s.isForeign(k) {
		// Look before a key is made that nobody would get.
		if blocked, err := s.blockedBy(ctx, account, name); blocked || err != nil {
			return time.Now().Add(foreignRecheck), err
		}
	}
	fresh, renew, err := s.fresh(account, time.Now())
	if err != nil {
		return time.Time{}, err
	}
	if do.change == created || do.anew {
		if do.anew {
			if err := s.delete(ctx, secret); err != nil {
				return time.Time{}, err
			}
		}
		if _, err = secrets.Create(ctx, fresh, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			blocked, lookErr := s.blockedBy(ctx, account, name)
			if blocked || lookErr != nil {
				return time.Now().Add(foreignRecheck), lookErr
			}
			return time.Time{}, apierrors.NewConflict(corev1.Resource("secrets"), name, err) // the watch is behind
		}
	} else {
		_, err = secrets.Update(ctx, over(secret, fresh), metav1.UpdateOptions{})
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return time.Time{}, nil // nothing lives there any more
	case err != nil:
		return time.Time{}, err
	}
	if do.change != renewed {
		s.repaired(k)
	}
	s.setForeign(k, false)
	s.report(ctx, account, do, renew)
	return renew, nil
}

// fresh makes an account's new Secret and puts it to the test before anybody
// else can: a Make and a Check that disagree would otherwise write for ever.
func (s *secretLoop) fresh(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, time.Time, error) {
	made, err := s.Make(account, now)
	if err != nil {
		return nil, time.Time{}, err
	}
	fresh := made.DeepCopy()
	fresh.Namespace, fresh.Name = account.Namespace, mesh.WorkloadSecret(account.Name)
	fresh.Type = mesh.WorkloadSecretType
	metav1.SetMetaDataLabel(&fresh.ObjectMeta, mesh.ManagedByLabel, mesh.ManagedBy)
	fresh.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "ServiceAccount", Name: account.Name, UID: types.UID(account.UID),
	}}
	renew, err := s.Check(account, fresh, now)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("as made: %w", err)
	}
	if !renew.After(now) {
		return nil, time.Time{}, fmt.Errorf("as made: to be renewed at %s already", renew.UTC().Format(time.RFC3339))
	}
	return fresh, renew, nil
}

// over returns the Secret with the fresh one's content and account, and with the
// labels, annotations and other owners that it has. It carries the resource version
// that the decision was made from.
func over(secret, fresh *corev1.Secret) *corev1.Secret {
	out := secret.DeepCopy()
	out.Data, out.StringData = fresh.Data, nil
	for name, value := range fresh.Labels {
		metav1.SetMetaDataLabel(&out.ObjectMeta, name, value)
	}
	for name, value := range fresh.Annotations {
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, name, value)
	}
	out.OwnerReferences = append(slices.DeleteFunc(out.OwnerReferences, isAccount), fresh.OwnerReferences...)
	return out
}

// delete removes the very Secret that the decision was made from.
func (s *secretLoop) delete(ctx context.Context, secret *corev1.Secret) error {
	err := s.api.Client.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// confirmGone asks the API server itself whether the account that owns a Secret is
// gone: the watch of accounts may be behind the watch of Secrets.
func (s *secretLoop) confirmGone(ctx context.Context, k key, owner string) error {
	live, err := s.api.metadata.Resource(corev1.SchemeGroupVersion.WithResource("serviceaccounts")).
		Namespace(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case owner != "" && string(live.UID) != owner:
		return nil
	}
	return apierrors.NewConflict(corev1.Resource("serviceaccounts"), k.Name, errors.New("exists, but the watch does not show it yet"))
}

func (s *secretLoop) report(ctx context.Context, account mesh.ServiceAccount, do decision, renew time.Time) {
	s.changes.WithLabelValues(string(do.change)).Inc()
	attrs := []any{"account", account.String(), "change", string(do.change)}
	if do.why != nil {
		attrs = append(attrs, "why", do.why)
	}
	if !renew.IsZero() {
		attrs = append(attrs, "renew", renew.UTC())
	}
	s.log.InfoContext(ctx, "kept secret", attrs...)
}
