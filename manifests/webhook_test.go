package manifests_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
)

func webhook(t *testing.T) *admissionv1.MutatingWebhookConfiguration {
	t.Helper()
	return all[*admissionv1.MutatingWebhookConfiguration](t)[0]
}

// The file is what the command line renders for the default installation: one
// place says which pods the API server shows to the injector, internal/inject,
// whose tests say what follows from it. Copy from `garrison manifests webhook`.
func TestWebhook(t *testing.T) {
	want, err := inject.Webhook{}.Configuration()
	if err != nil {
		t.Fatal(err)
	}
	got := webhook(t).DeepCopy()
	for _, labels := range readKustomization(t).Labels { // as kubectl apply -k sees it
		maps.Copy(got.Labels, labels.Pairs)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-rendered +file\n%s", diff)
	}
}
