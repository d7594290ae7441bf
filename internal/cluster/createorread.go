package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
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
	return a.EnsureSecret(ctx, namespace, name, func(found *corev1.Secret) (*corev1.Secret, error) {
		if found != nil {
			return nil, nil
		}
		if made == nil {
			fresh, err := make()
			if err != nil {
				return nil, err
			}
			made = fresh.DeepCopy()
		}
		return made, nil
	})
}

// EnsureSecret calls want with the Secret of that name, nil where there is none, and
// writes what it returns, nil to leave things as they are. It returns the Secret as it
// is then. Whoever wrote in between makes want be called again with what they wrote; so
// of several processes one wins, and the others may find its work good. Its patience is
// that of [API.CreateOrRead].
func (a *API) EnsureSecret(
	ctx context.Context, namespace, name string, want func(found *corev1.Secret) (*corev1.Secret, error),
) (*corev1.Secret, error) {
	secret, err := patiently(ctx, func(ctx context.Context) (*corev1.Secret, error) {
		secrets := a.Client.CoreV1().Secrets(namespace)
		found, err := secrets.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			found = nil
		} else if err != nil {
			return nil, err
		}
		wanted, err := want(found.DeepCopy())
		switch {
		case err != nil:
			return nil, permanent{err}
		case wanted == nil:
			return found, nil
		}
		wanted.Namespace, wanted.Name = namespace, name
		if found == nil {
			return secrets.Create(ctx, wanted, metav1.CreateOptions{})
		}
		wanted.UID, wanted.ResourceVersion = found.UID, found.ResourceVersion
		return secrets.Update(ctx, wanted, metav1.UpdateOptions{})
	})
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, err)
	}
	return secret, nil
}

// ReadSecret returns the Secret of that name, nil where there is none, with the
// patience of [API.CreateOrRead].
func (a *API) ReadSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return a.EnsureSecret(ctx, namespace, name, func(*corev1.Secret) (*corev1.Secret, error) { return nil, nil })
}

// ReadConfigMap is [API.ReadSecret] for a ConfigMap. It lists, as the watches of one
// name do, so that they need no other right.
func (a *API) ReadConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	found, err := patiently(ctx, func(ctx context.Context) (*corev1.ConfigMap, error) {
		return listOne(ctx, a.Client, key{Namespace: namespace, Name: name})
	})
	if err != nil {
		return nil, fmt.Errorf("config map %s/%s: %w", namespace, name, err)
	}
	return found, nil
}

// listOne returns the ConfigMap of that name, nil where there is none, as the storage has it.
func listOne(ctx context.Context, client kubernetes.Interface, k key) (*corev1.ConfigMap, error) {
	var o metav1.ListOptions // without a version no cache may answer with what was
	only(k.Name)(&o)
	list, err := client.CoreV1().ConfigMaps(k.Namespace).List(ctx, o)
	if err != nil || len(list.Items) == 0 {
		return nil, err
	}
	return &list.Items[0], nil
}

// patiently repeats an attempt until it succeeds, fails for good, or ctx ends.
func patiently[T any](ctx context.Context, attempt func(context.Context) (T, error)) (T, error) {
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 7, Cap: 5 * time.Second}
	for {
		once, cancel := context.WithTimeout(ctx, attemptTimeout)
		result, err := attempt(once)
		cancel()
		if err == nil || !transient(err) || ctx.Err() != nil {
			return result, err
		}
		select {
		case <-ctx.Done():
			return result, err
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
