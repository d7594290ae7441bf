package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// warning is an Event for people who look at an object.
type warning struct {
	name    string // of the Event: the same warning has the same
	about   corev1.ObjectReference
	reason  string
	message string
	by      string // which of Garrison's servers
}

// warn writes the Event into the namespace of the object, unless one of that name is
// there still or the namespace is going.
func (a *API) warn(ctx context.Context, w warning) error {
	now := metav1.Now()
	_, err := a.Client.CoreV1().Events(w.about.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: w.about.Namespace, Name: w.name},
		InvolvedObject: w.about,
		Type:           corev1.EventTypeWarning,
		Reason:         w.reason,
		Message:        w.message,
		Source:         corev1.EventSource{Component: w.by},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
