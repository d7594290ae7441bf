package cluster

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// Live reads of what the watches do not know, in a second: those who cause them hold a
// good signature, but may be many.
const (
	liveQPS   = 20
	liveBurst = 40
)

// readAccount returns the account of that name. Where uid is not empty, it is enough
// to tell whether that is the one.
func (w *Workloads) readAccount(ctx context.Context, k key, uid string) (*resident, error) {
	return w.readResident(ctx, incarnation{accountObjects, k, uid}, func(ctx context.Context) (*resident, error) {
		found, err := w.client.CoreV1().ServiceAccounts(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("service account %s: %w", k, err)
		}
		return residentOf(found)
	})
}

// readPod is readAccount for a pod.
func (w *Workloads) readPod(ctx context.Context, k key, uid string) (*resident, error) {
	return w.readResident(ctx, incarnation{podObjects, k, uid}, func(ctx context.Context) (*resident, error) {
		found, err := w.client.CoreV1().Pods(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", k, err)
		}
		return residentOf(found)
	})
}

func (w *Workloads) readResident(
	ctx context.Context, of incarnation, read func(context.Context) (*resident, error),
) (*resident, error) {
	if of.uid == "" {
		return live(ctx, w, read)
	}
	return w.gone.look(ctx, of, func() (*resident, error) { return live(ctx, w, read) })
}

// readOnNode returns the live pods of an account on a node.
func (w *Workloads) readOnNode(ctx context.Context, node string, account key) ([]*resident, error) {
	return live(ctx, w, func(ctx context.Context) ([]*resident, error) {
		found, err := w.client.CoreV1().Pods(account.Namespace).List(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(),
		})
		if err != nil {
			return nil, fmt.Errorf("pods on node %s: %w", node, err)
		}
		there := mirror{byUID: map[string]*resident{}, byNode: map[string]map[string]*resident{}}
		for i := range found.Items {
			if err := there.Add(&found.Items[i]); err != nil {
				return nil, err
			}
		}
		return there.onNode(node, account), nil
	})
}

// live reads what the view cannot tell. What does not exist is no error, and any
// other failure is [ErrUnavailable].
func live[T any](ctx context.Context, w *Workloads, read func(context.Context) (T, error)) (T, error) {
	var none T
	if !w.lookups.TryAccept() {
		return none, fmt.Errorf("%w: too many pods and service accounts that the watch does not know", ErrUnavailable)
	}
	w.read.Inc()
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := read(ctx)
	switch {
	case apierrors.IsNotFound(err):
		return none, nil
	case err != nil:
		return none, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return found, nil
}
