package main

import (
	"sync/atomic"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
)

// webhooks are those that show pods to a revision.
type webhooks struct {
	revision string
	changed  word
	shown    atomic.Pointer[[]*admissionregistrationv1.MutatingWebhookConfiguration] // nil: not known yet
}

// take hears which there are.
func (w *webhooks) take(there []*admissionregistrationv1.MutatingWebhookConfiguration) {
	shown := inject.ShownBy(w.revision, there)
	w.shown.Store(&shown)
	w.changed.tell()
}
