package cluster

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Defaults of [SecretKeeper].
const (
	DefaultSecretRate    = 50  // reads and writes in a second
	DefaultScrubRate     = 200 // Secrets in a second
	DefaultScrubInterval = 12 * time.Hour
)

// SecretKeeper says which service accounts get a Secret and what is in it. The
// functions are called by several workers at a time.
type SecretKeeper struct {
	// InScope reports whether an account gets a Secret. Secrets of accounts that leave
	// the scope stay, because pods may have mounted them, but are kept up no longer;
	// they go with their account.
	InScope func(*corev1.Namespace, Account) bool
	// Labels lets Account.Labels tell the account's labels, which cost memory.
	Labels bool
	// Used lets Account.Used tell whether a pod uses the account. It costs a watch of
	// all pods.
	Used bool
	// Namespaces, if there are any, are the only ones where Secrets are kept, each
	// watched by itself: Secrets of others need not be readable.
	Namespaces []string

	// Check returns the moment from which the Secret should be renewed, or an error
	// that says what is wrong with it. It must not change the Secret.
	Check func(account mesh.ServiceAccount, secret *corev1.Secret, now time.Time) (renew time.Time, err error)

	// Make returns a new Secret's data, labels and annotations. Name, type, owner
	// and the label that marks it as Garrison's are put in here. What Make returns
	// has to pass Check, with a renewal yet to come, or it is not written.
	Make func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error)
	// Failure sorts an error of Make; nil: each is NotSigned.
	Failure func(error) Failure

	// Basis returns what an account's Secret is good by today. When that has changed, a
	// word on Again, which may be nil, has all Secrets looked at at once.
	Basis func(mesh.ServiceAccount) Basis
	Again <-chan struct{}

	Workers       int                   // at a time; 0: 4
	Rate          float64               // reads and writes in a second, all workers together; 0: [DefaultSecretRate]
	ScrubRate     float64               // Secrets in a second that are read to check them; 0: [DefaultScrubRate]
	ScrubInterval time.Duration         // between two checks of all; 0: [DefaultScrubInterval]
	Resync        time.Duration         // each Secret's metadata is looked at at least this often; 0: 10 min
	Log           *slog.Logger          // nil: no log
	Metrics       prometheus.Registerer // nil: no metrics
}

// Account is a service account as far as it matters for the scope.
type Account struct {
	Name   string
	Labels map[string]string // not to be changed; nil where nobody asked
	Used   bool              // a pod that has not ended runs as it; false where nobody asked
}

// Basis is what Secrets are good by: two that are equal give equal verdicts.
type Basis struct {
	Roots string // of the roots that Secrets carry, as in the annotation mesh.SecretRoots
	Chain string // of what lies between certificates and a root

	Revoked string // of what is revoked and may be the account's; empty: nothing
	Barred  bool   // the account itself is: it gets no Secret, and what it has is deleted
}

// KeepSecrets returns a part for the leader: each service account in scope has the
// Secret istio.<account>, created, renewed when due, put right when spoilt, made
// anew when deleted, and removed with the account.
//
// Watched are metadata alone. A Secret's content is read when anybody but this process
// has changed the Secret, and slowly for all of them now and then, beginning with the
// term of leadership.
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
		defer s.metrics.blocked.Set(0) // from now on the next leader tells
		return s.run(ctx)
	}
}

type secretLoop struct {
	*loop
	SecretKeeper
	api        *API
	limit      flowcontrol.RateLimiter
	tells      flowcontrol.RateLimiter // of Events
	namespaces cache.Indexer           // Namespace
	accounts   cache.Indexer           // accountSight
	pods       cache.Indexer           // podSight; nil: none are watched
	secrets    map[string]cache.Indexer
	verdicts   *verdicts
	patient    atomic.Int64 // Unix nanoseconds: until then the first look at all Secrets may take
	metrics    secretMetrics

	mu      sync.Mutex
	foreign map[key]bool // accounts whose Secret's name somebody else has
}

func newSecretLoop(a *API, k SecretKeeper) (*secretLoop, error) {
	k = k.withDefaults()
	s := &secretLoop{
		loop: newLoop(k.Workers, k.Log), SecretKeeper: k, api: a,
		limit:    flowcontrol.NewTokenBucketRateLimiter(float32(k.Rate), max(1, int(k.Rate))),
		tells:    flowcontrol.NewTokenBucketRateLimiter(tellQPS, tellBurst),
		secrets:  map[string]cache.Indexer{},
		verdicts: newVerdicts(), foreign: map[key]bool{},
	}
	s.sync = s.keep
	s.patient.Store(time.Now().Add(k.Resync).UnixNano())
	var err error
	if s.metrics, err = newSecretMetrics(k.Metrics); err != nil {
		return nil, err
	}
	if err := s.watchAll(); err != nil {
		return nil, err
	}
	s.heed(k.Again, s.accounts)
	s.also = append(s.also, s.scrub)
	return s, nil
}

func (k SecretKeeper) withDefaults() SecretKeeper {
	if k.Workers <= 0 {
		k.Workers = workers
	}
	if k.Rate <= 0 {
		k.Rate = DefaultSecretRate
	}
	if k.ScrubRate <= 0 {
		k.ScrubRate = DefaultScrubRate
	}
	if k.ScrubInterval <= 0 {
		k.ScrubInterval = DefaultScrubInterval
	}
	if k.Resync <= 0 {
		k.Resync = defaultResync
	}
	if k.Failure == nil {
		k.Failure = func(error) Failure { return NotSigned }
	}
	if len(k.Namespaces) == 0 {
		k.Namespaces = []string{metav1.NamespaceAll}
	}
	return k
}

// watchAll has the loop hear of all that a Secret depends on.
func (s *secretLoop) watchAll() error {
	namespaces := coreinformers.NewNamespaceInformer(s.api.Client, 0, cache.Indexers{})
	s.namespaces = namespaces.GetIndexer()
	accounts := metadatainformer.NewFilteredMetadataInformer(s.api.metadata, accountResource, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
	s.accounts = accounts.GetIndexer()
	errs := []error{
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
		s.watchTrimmed(accounts, trimAccount(s.Labels), s.enqueue),
	}
	for _, namespace := range s.Namespaces {
		secrets := metadatainformer.NewFilteredMetadataInformer(s.api.metadata, secretResource, namespace, 0, cache.Indexers{}, onlyOurType).Informer()
		s.secrets[namespace] = secrets.GetIndexer()
		errs = append(errs, s.watchChanges(secrets, trimSecret, s.secretChanged))
	}
	if s.Used {
		pods := coreinformers.NewFilteredPodInformer(s.api.Client, metav1.NamespaceAll, 0, cache.Indexers{byAccount: accountsOfPod}, notEnded)
		s.pods = pods.GetIndexer()
		errs = append(errs, s.watchTrimmed(pods, trimUser, func(obj any) {
			if pod, ok := obj.(*podSight); ok {
				s.queue.Add(pod.key())
			}
		}))
	}
	return errors.Join(errs...)
}

var (
	accountResource = corev1.SchemeGroupVersion.WithResource("serviceaccounts")
	secretResource  = corev1.SchemeGroupVersion.WithResource("secrets")
)

// onlyOurType finds what Istio's Citadel made as well: its Secrets have no label.
func onlyOurType(o *metav1.ListOptions) {
	o.FieldSelector = fields.OneTermEqualSelector("type", mesh.WorkloadSecretType).String()
}

// notEnded finds pods that use their account now, or will.
func notEnded(o *metav1.ListOptions) {
	o.FieldSelector = fields.AndSelectors(
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
	).String()
}

// secretChanged hears of every Secret of our type.
func (s *secretLoop) secretChanged(obj any, listed bool) {
	seen, ok := obj.(*secretSight)
	if !ok {
		return
	}
	account, ok := strings.CutPrefix(seen.name, mesh.WorkloadSecretPrefix)
	if !ok {
		return
	}
	k := key{Namespace: seen.namespace.Value(), Name: account}
	if !listed {
		s.verdicts.suspect(k, seen)
	}
	s.queue.Add(k)
}

// secret returns what the watch shows of an account's Secret, nil where there is none.
func (s *secretLoop) secret(k key) (*secretSight, error) {
	store, ok := s.secrets[k.Namespace]
	if !ok {
		store, ok = s.secrets[metav1.NamespaceAll]
	}
	if !ok {
		return nil, nil
	}
	return find[secretSight](store, key{Namespace: k.Namespace, Name: mesh.WorkloadSecret(k.Name)})
}

// account returns the account as the watches show it, without UID if there is
// none, and whether it should have a Secret.
func (s *secretLoop) account(k key) (account mesh.ServiceAccount, wanted bool, err error) {
	account = mesh.ServiceAccount{Namespace: k.Namespace, Name: k.Name}
	known, err := find[accountSight](s.accounts, k)
	if err != nil || known == nil {
		return account, false, err
	}
	account.UID = string(known.uid)
	ns, err := find[corev1.Namespace](s.namespaces, key{Name: k.Namespace})
	if err != nil || ns == nil || terminating(ns) || known.ending || !s.kept(k.Namespace) {
		return account, false, err
	}
	scoped := Account{Name: known.name, Labels: known.labels}
	if s.pods != nil {
		users, err := s.pods.IndexKeys(byAccount, k.String())
		if err != nil {
			return account, false, err
		}
		scoped.Used = len(users) > 0
	}
	return account, s.InScope(ns, scoped), nil
}

// kept reports whether Secrets of a namespace are watched.
func (s *secretLoop) kept(namespace string) bool {
	return s.secrets[metav1.NamespaceAll] != nil || s.secrets[namespace] != nil
}

func uidOf(account mesh.ServiceAccount) types.UID { return types.UID(account.UID) }
