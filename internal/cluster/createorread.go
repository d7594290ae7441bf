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
