package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// WatchSecret returns a part that calls got with the Secret of that name as it is
// now, then after every change, and with nil when there is none. Calls come one
// after the other, states that follow in haste may be passed over, and the last
// one is always told. The Secret is got's own copy.
func (a *API) WatchSecret(namespace, name string, got func(*corev1.Secret)) func(context.Context) error {
	return func(ctx context.Context) error {
		informer := coreinformers.NewFilteredSecretInformer(a.Client, namespace, 0, cache.Indexers{}, only(name))
		if err := watchOne(ctx, informer, key{Namespace: namespace, Name: name}, got); err != nil {
			return fmt.Errorf("watch of secret %s/%s: %w", namespace, name, err)
		}
		return nil
	}
}

// WatchConfigMap is [API.WatchSecret] for a ConfigMap.
func (a *API) WatchConfigMap(namespace, name string, got func(*corev1.ConfigMap)) func(context.Context) error {
	return func(ctx context.Context) error {
		informer := coreinformers.NewFilteredConfigMapInformer(a.Client, namespace, 0, cache.Indexers{}, only(name))
		if err := watchOne(ctx, informer, key{Namespace: namespace, Name: name}, got); err != nil {
			return fmt.Errorf("watch of config map %s/%s: %w", namespace, name, err)
		}
		return nil
	}
}

// object is a pointer to one of Kubernetes' types.
type object[T any] interface {
	*T
	metav1.Object
	DeepCopy() *T
}

func watchOne[T any, P object[T]](ctx context.Context, informer cache.SharedIndexInformer, k key, got func(*T)) error {
	var last state
	return follow(ctx, informer, nil, func() error { // an absent object is no event, but it is told
		found, err := find[T](informer.GetStore(), k)
		if err != nil {
			return err
		}
		if now := stateOf[T, P](found); now != last {
			last = now
			got(P(found).DeepCopy())
		}
		return nil
	})
}

// state tells one version of an object from another; absence is a state too, and
// none is the zero value.
type state struct {
	known   bool
	uid     types.UID
	version string
}

func stateOf[T any, P object[T]](found *T) state {
	now := state{known: true}
	if found != nil {
		now.uid, now.version = P(found).GetUID(), P(found).GetResourceVersion()
	}
	return now
}

// follow runs the informer until ctx ends and calls changed when it has all
// objects, then after every change; changes that follow in haste are told as one.
// Updates that same calls none are not told; nil calls no two objects the same.
// An error of changed ends it.
func follow(ctx context.Context, informer cache.SharedIndexInformer, same func(old, new any) bool, changed func() error) error {
	pending := make(chan struct{}, 1)
	tell := func() {
		select {
		case pending <- struct{}{}:
		default:
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { tell() },
		UpdateFunc: func(old, new any) {
			if same == nil || !same(old, new) {
				tell()
			}
		},
		DeleteFunc: func(any) { tell() },
	}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // of the informer, before it is waited for
	wg.Go(func() { informer.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	tell()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pending:
		}
		if err := changed(); err != nil {
			return err
		}
	}
}

// prepare makes an informer keep what trim leaves of an object, and log why a
// watch fails.
func prepare(informer cache.SharedIndexInformer, trim cache.TransformFunc, log *slog.Logger) error {
	if err := informer.SetTransform(trim); err != nil {
		return err
	}
	return informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if ctx.Err() == nil && !apierrors.IsResourceExpired(err) {
			log.WarnContext(ctx, "watch failed", "type", r.TypeDescription(), "err", err)
		}
	})
}

// withoutManagedFields runs before an object enters a cache, while it has one owner.
// Nothing here reads managed fields, and they are half of a small object.
func withoutManagedFields(obj any) (any, error) {
	if object, err := meta.Accessor(obj); err == nil {
		object.SetManagedFields(nil)
	}
	return obj, nil
}

// only limits lists and watches to one name.
func only(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
}

// orDiscard lets a nil logger mean none.
func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
