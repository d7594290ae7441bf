package main

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
)

// TestWebhooks: the audit hears of each change, and of none that it is to guess.
func TestWebhooks(t *testing.T) {
	w := &webhooks{revision: "canary", changed: newWord()}
	if w.shown.Load() != nil {
		t.Error("known before they were told")
	}
	tag, err := inject.Webhook{Revision: "canary", Tag: "prod"}.Configuration()
	if err != nil {
		t.Fatal(err)
	}
	for _, there := range [][]*admissionregistrationv1.MutatingWebhookConfiguration{nil, {tag}} {
		w.take(there)
		if got := *w.shown.Load(); len(got) != 1+len(there) || got[0].Name != "istio-sidecar-injector-canary" {
			t.Errorf("of %d: %d, the first %s", len(there), len(got), got[0].Name)
		}
		select {
		case <-w.changed:
		default:
			t.Error("no word of it")
		}
	}
}
