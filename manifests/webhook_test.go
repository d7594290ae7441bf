package manifests_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func webhook(t *testing.T) *admissionv1.MutatingWebhookConfiguration {
	t.Helper()
	return all[*admissionv1.MutatingWebhookConfiguration](t)[0]
}

// What every entry has in common, compared as a whole.
func TestWebhookEntries(t *testing.T) {
	w := webhook(t)
	if w.Name != mesh.InjectorWebhook {
		t.Errorf("name %s, want %s", w.Name, mesh.InjectorWebhook)
	}
	var names []string
	for _, entry := range w.Webhooks {
		names = append(names, entry.Name)
		want := admissionv1.MutatingWebhook{
			Name:              entry.Name,
			NamespaceSelector: entry.NamespaceSelector, // TestSelection
			ObjectSelector:    entry.ObjectSelector,
			ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{
				Namespace: mesh.SystemNamespace, Name: mesh.InjectorService, Path: new(mesh.InjectPath), Port: new(int32(443)),
			}},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: new(admissionv1.NamespacedScope)},
			}},
			MatchConditions: []admissionv1.MatchCondition{{
				Name:       "not-a-mirror-pod",
				Expression: "!has(object.metadata.annotations) || !('" + corev1.MirrorPodAnnotationKey + "' in object.metadata.annotations)",
			}},
			AdmissionReviewVersions: []string{"v1"},
			SideEffects:             new(admissionv1.SideEffectClassNone),
			FailurePolicy:           new(admissionv1.Fail),
			MatchPolicy:             new(admissionv1.Equivalent),
			ReinvocationPolicy:      new(admissionv1.NeverReinvocationPolicy),
			TimeoutSeconds:          new(int32(10)),
		}
		if diff := cmp.Diff(want, entry); diff != "" {
			t.Errorf("%s:\n%s", entry.Name, diff)
		}
	}
	want := []string{"namespace.", "object.", "rev.namespace.", "rev.object."}
	for i := range want {
		want[i] += mesh.InjectorWebhookSuffix
	}
	if !slices.Equal(names, want) {
		t.Errorf("entries %q, want %q", names, want)
	}
}

// Which entries the API server calls for a namespace and a pod: never two, and none
// in the namespaces that the injector itself depends on.
func TestSelection(t *testing.T) {
	const (
		enabled  = "istio-injection=enabled"
		disabled = "istio-injection=disabled"
		current  = "istio.io/rev=default"
		canary   = "istio.io/rev=canary"
		both     = enabled + "," + canary
		in       = "sidecar.istio.io/inject=true"
		out      = "sidecar.istio.io/inject=false"
	)
	cases := []struct{ namespace, pod, want string }{
		{enabled, "", "namespace."},
		{enabled, in, "namespace."},
		{enabled, out, ""},
		{enabled, canary, "namespace."},
		{both, "", "namespace."},
		{disabled, "", ""},
		{disabled, in, ""},
		{disabled, current, ""},
		{disabled + "," + current, in, ""},
		{"", "", ""},
		{"", in, "object."},
		{"", out, ""},
		{"", current, "rev.object."},
		{"", current + "," + in, "rev.object."},
		{"", current + "," + out, ""},
		{"", canary, ""},
		{"", canary + "," + in, ""},
		{current, "", "rev.namespace."},
		{current, in, "rev.namespace."},
		{current, out, ""},
		{current, canary, "rev.namespace."},
		{canary, "", ""},
		{canary, in, ""},
		{canary, current, ""},
	}
	for _, c := range cases {
		want := c.want
		if want != "" {
			want += mesh.InjectorWebhookSuffix
		}
		if got := called(t, "shop", c.namespace, c.pod); got != want {
			t.Errorf("namespace %q, pod %q: %q, want %q", c.namespace, c.pod, got, want)
		}
		for _, system := range []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, mesh.SystemNamespace} {
			if got := called(t, system, c.namespace, c.pod); got != "" {
				t.Errorf("%s with %q, pod %q: %s is called", system, c.namespace, c.pod, got)
			}
		}
	}
}

// called returns the names of the entries whose selectors match, one after the other.
func called(t *testing.T, namespace, nsLabels, podLabels string) string {
	t.Helper()
	set := func(s string) labels.Set {
		l, err := labels.ConvertSelectorToLabelsMap(s)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ns, pod := set(nsLabels), set(podLabels)
	ns[corev1.LabelMetadataName] = namespace
	var names string
	for _, entry := range webhook(t).Webhooks {
		if selects(t, entry.NamespaceSelector, ns) && selects(t, entry.ObjectSelector, pod) {
			names += entry.Name
		}
	}
	return names
}

func selects(t *testing.T, s *metav1.LabelSelector, l labels.Set) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(l)
}
