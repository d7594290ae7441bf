package manifests_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
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

// Where a revision's injector tests the entries of its webhook is what the base makes for
// the default's, with another name.
func TestSelfTestOfRevision(t *testing.T) {
	objects, err := inject.Webhook{Revision: "canary"}.Objects()
	if err != nil {
		t.Fatal(err)
	}
	own := mesh.SelfTestRevisionNamespace(mesh.DefaultRevision)
	seen := 0
	for _, o := range objects {
		var got, want any
		switch o := o.(type) {
		case *corev1.Namespace:
			base := named(t, all[*corev1.Namespace](t), own).DeepCopy()
			base.Name, base.Labels[mesh.RevisionLabel] = mesh.SelfTestRevisionNamespace("canary"), "canary"
			for _, labels := range append(readKustomization(t).Labels, struct{ Pairs map[string]string }{map[string]string{"app": "injector"}}) {
				maps.Copy(base.Labels, labels.Pairs)
			}
			got, want = o, base
		case *rbacv1.Role:
			got, want = o.Rules, in(t, all[*rbacv1.Role](t), own).Rules
		case *rbacv1.RoleBinding:
			base := in(t, all[*rbacv1.RoleBinding](t), own).DeepCopy()
			base.Subjects[0].Name = strings.Replace(base.Subjects[0].Name, mesh.InjectorService, mesh.InjectorService+"-canary", 1)
			got, want = o.Subjects, base.Subjects
		default:
			continue
		}
		seen++
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%T: -base +rendered\n%s", o, diff)
		}
	}
	if seen != 3 {
		t.Errorf("%d objects, want a namespace, a role and its binding", seen)
	}
}

// in returns the only object of a namespace.
func in[T metav1.Object](t *testing.T, objects []T, namespace string) (found T) {
	t.Helper()
	n := 0
	for _, o := range objects {
		if o.GetNamespace() == namespace {
			found, n = o, n+1
		}
	}
	if n != 1 {
		t.Fatalf("%d %T in %s", n, found, namespace)
	}
	return found
}
