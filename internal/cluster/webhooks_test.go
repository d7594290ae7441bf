package cluster

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// One that another revision takes over is no longer this one's.
func testWatchWebhooks(t *testing.T, l lab) {
	const revision = "watched"
	webhooks := l.admin.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	api := l.as(t, allow("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "list watch"))
	seen := make(chan []string, 100)
	run(t, api.WatchWebhooks(revision, func(all []*admissionv1.MutatingWebhookConfiguration) {
		var names []string
		for _, webhook := range all {
			names = append(names, webhook.Name)
		}
		seen <- names
	}))
	wants := func(names ...string) {
		t.Helper()
		deadline := time.After(time.Minute)
		for last := []string{"not told"}; ; {
			if cmp.Equal(last, names) {
				return
			}
			select {
			case last = <-seen:
			case <-deadline:
				t.Fatalf("told of %q at last, want %q", last, names)
			}
		}
	}
	wants()
	create := func(name, serves, owner string) {
		t.Helper()
		w := webhook(entry(ours1, nil))
		w.Name, w.Labels = name, map[string]string{mesh.RevisionLabel: serves, mesh.ManagedByLabel: owner}
		if _, err := webhooks.Create(t.Context(), w, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("watched-foreign", revision, "somebody-else")
	create("watched-other", "other", mesh.ManagedBy)
	create("watched-tag", revision, mesh.ManagedBy)
	wants("watched-tag")
	create("watched-itself", revision, mesh.ManagedBy)
	wants("watched-itself", "watched-tag")
	moved := []byte(`{"metadata":{"labels":{"` + mesh.RevisionLabel + `":"other"}}}`)
	if _, err := webhooks.Patch(t.Context(), "watched-tag", types.MergePatchType, moved, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	wants("watched-itself")
}
