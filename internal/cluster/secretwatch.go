package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// attemptTimeout bounds one request of those that are repeated.
const attemptTimeout = 10 * time.Second

// CreateOrRead returns the Secret of that name. Where there is none it calls make,
// at most once, and creates what make returned; of several processes that do so at
// the same time one wins, and all return the winner's Secret.
//
// Conflicts and an API server that does not answer are met with patience, until
// ctx ends: a caller that must not wait for ever sets a deadline. Other errors,
// make's among them, are returned at once.
func (a *API) CreateOrRead(ctx context.Context, namespace, name string, make func() (*corev1.Secret, error)) (*corev1.Secret, error) {
	var made *corev1.Secret
	attempt := func() (*corev1.Secret, error) {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		secrets := a.Client.CoreV1().Secrets(namespace)
		found, err := secrets.Get(ctx, name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return found, err
		}
		if made == nil {
			fresh, err := make()
			if err != nil {
				return nil, permanent{err}
			}
			made = fresh.DeepCopy()
			made.Namespace, made.Name = namespace, name
		}
		created, err := secrets.Create(ctx, made, metav1.CreateOptions{})
		return created, err
	}
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 7, Cap: 5 * time.Second}
	for {
		secret, err := attempt()
		if err == nil {
			return secret, nil
		}
		if !transient(err) || ctx.Err() != nil {
			return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, err)
		case <-time.After(backoff.Step()):
		}
	}
}

// permanent marks an error that no repetition can mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// transient reports whether the same steps may succeed a little later.
func transient(err error) bool {
	if _, ok := errors.AsType[permanent](err); ok {
		return false
	}
	if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
		return true // no answer from the API server at all
	}
	return apierrors.IsAlreadyExists(err) || // another was faster: read it
		apierrors.IsConflict(err) ||
		apierrors.IsServerTimeout(err) ||
		apierrors.IsTimeout(err) ||
		apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) ||
		apierrors.IsInternalError(err)
}

// WatchSecret returns a part that calls got with the Secret of that name as it is
// now, then after every change, and with nil when there is none. Calls come one
// after the other, states that follow in haste may be passed over, and the last
// one is always told. The Secret is got's own copy.
func (a *API) WatchSecret(namespace, name string, got func(*corev1.Secret)) func(context.Context) error {
	return func(ctx context.Context) error {
		informer := coreinformers.NewFilteredSecretInformer(a.Client, namespace, 0, cache.Indexers{}, only(name))
		changed := make(chan struct{}, 1)
		tell := func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { tell() },
			UpdateFunc: func(_, _ any) { tell() },
			DeleteFunc: func(any) { tell() },
		}); err != nil {
			return fmt.Errorf("watch of secret %s/%s: %w", namespace, name, err)
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		ctx, stop := context.WithCancel(ctx)
		defer stop() // of the informer, before it is waited for
		wg.Go(func() { informer.RunWithContext(ctx) })
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return nil
		}
		tell() // an absent Secret is no event
		var last state
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
			secret, err := find[corev1.Secret](informer.GetStore(), key{Namespace: namespace, Name: name})
			if err != nil {
				return fmt.Errorf("watch of secret %s/%s: %w", namespace, name, err)
			}
			if now := stateOf(secret); now != last {
				last = now
				got(secret.DeepCopy())
			}
		}
	}
}

// state tells one version of an object from another; absence is a state too, and
// none is the zero value.
type state struct {
	known   bool
	uid     types.UID
	version string
}

func stateOf(secret *corev1.Secret) state {
	if secret == nil {
		return state{known: true}
	}
	return state{known: true, uid: secret.UID, version: secret.ResourceVersion}
}

// only limits lists and watches to one name.
func only(name string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
}
