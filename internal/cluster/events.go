package cluster

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// warning is an Event for people who look at an object.
type warning struct {
	name    string // of the Event: the same warning has the same
	about   corev1.ObjectReference
	reason  string
	message string
	by      string // which of Garrison's servers
}

// SecretWarning is for those who look at one of the Secrets that the CA is in.
type SecretWarning struct {
	Namespace, Secret string
	ID                string // of the Event: the same warning has the same
	Reason, Message   string
}

// warnTimeout bounds the writing of one Event about a Secret.
const warnTimeout = 10 * time.Second

// WarnOfSecret writes the warning as an Event, once for its ID as long as the API server
// keeps Events, whoever writes. The Secret need not be there.
func (a *API) WarnOfSecret(ctx context.Context, w SecretWarning) error {
	ctx, cancel := context.WithTimeout(ctx, warnTimeout)
	defer cancel()
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: w.Namespace, Name: w.Secret}
	found, err := a.ReadSecret(ctx, w.Namespace, w.Secret)
	if err != nil {
		return err
	}
	if found != nil {
		about.UID = found.UID // kubectl describe goes by it
	}
	return a.warn(ctx, warning{name: w.ID, about: about, reason: w.Reason, message: w.Message, by: mesh.CitadelFieldManager})
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
