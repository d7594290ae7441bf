package inject

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func configuration(t testing.TB, w Webhook) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	c, err := w.Configuration()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The five shapes that a configuration can have.
func TestWebhookNames(t *testing.T) {
	type shape struct{ Name, Service, Revision, Tag, Entries string }
	const two, four = "rev.namespace. rev.object.", "namespace. object. rev.namespace. rev.object."
	for w, want := range map[Webhook]shape{
		{}:                                   {"istio-sidecar-injector", "istio-sidecar-injector", "default", "", four},
		{Revision: "default"}:                {"istio-sidecar-injector", "istio-sidecar-injector", "default", "", four},
		{Neutral: true}:                      {"istio-sidecar-injector", "istio-sidecar-injector", "default", "", four},
		{NamespacesByDefault: true}:          {"istio-sidecar-injector", "istio-sidecar-injector", "default", "", four + " auto."},
		{Revision: "canary"}:                 {"istio-sidecar-injector-canary", "istio-sidecar-injector-canary", "canary", "", two},
		{Tag: "prod"}:                        {"istio-revision-tag-prod", "istio-sidecar-injector", "default", "prod", two},
		{Revision: "canary", Tag: "prod"}:    {"istio-revision-tag-prod", "istio-sidecar-injector-canary", "canary", "prod", two},
		{Revision: "canary", Tag: "default"}: {"istio-revision-tag-default", "istio-sidecar-injector-canary", "canary", "default", four},
		{Revision: "canary", Tag: "default", NamespacesByDefault: true}: {
			"istio-revision-tag-default", "istio-sidecar-injector-canary", "canary", "default", four + " auto."},
	} {
		c := configuration(t, w)
		got := shape{Name: c.Name, Revision: c.Labels[mesh.RevisionLabel], Tag: c.Labels["istio.io/tag"]}
		var entries []string
		for _, e := range c.Webhooks {
			got.Service = e.ClientConfig.Service.Name
			entries = append(entries, strings.TrimSuffix(e.Name, mesh.InjectorWebhookSuffix))
		}
		got.Entries = strings.Join(entries, " ")
		if got != want {
			t.Errorf("%+v:\n got %+v\nwant %+v", w, got, want)
		}
		if c.Labels["app"] != "injector" || c.Labels[mesh.ManagedByLabel] != mesh.ManagedBy || c.Labels["app.kubernetes.io/part-of"] != mesh.ManagedBy {
			t.Errorf("%+v: labels %v", w, c.Labels)
		}
	}
}

// What every entry has in common, compared as a whole.
func TestWebhookEntries(t *testing.T) {
	for _, e := range configuration(t, Webhook{NamespacesByDefault: true}).Webhooks {
		want := admissionregistrationv1.MutatingWebhook{
			Name:              e.Name,
			NamespaceSelector: e.NamespaceSelector, // TestSelection
			ObjectSelector:    e.ObjectSelector,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{
				Namespace: "istio-system", Name: "istio-sidecar-injector", Path: new("/inject"), Port: new(int32(443)),
			}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{"CREATE"},
				Rule: admissionregistrationv1.Rule{
					APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: new(admissionregistrationv1.NamespacedScope),
				},
			}},
			MatchConditions: []admissionregistrationv1.MatchCondition{{
				Name:       "not-a-mirror-pod",
				Expression: "!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)",
			}},
			AdmissionReviewVersions: []string{"v1", "v1beta1"},
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			FailurePolicy:           new(admissionregistrationv1.Fail),
			MatchPolicy:             new(admissionregistrationv1.Equivalent),
			ReinvocationPolicy:      new(admissionregistrationv1.IfNeededReinvocationPolicy),
			TimeoutSeconds:          new(int32(10)),
		}
		if diff := cmp.Diff(want, e); diff != "" {
			t.Errorf("%s:\n%s", e.Name, diff)
		}
	}
}

func TestWebhookRefuses(t *testing.T) {
	const form = ": want at most 40 small letters, digits and -, with a letter or digit at both ends"
	long := strings.Repeat("r", 41)
	for w, want := range map[Webhook]string{
		{Revision: "Canary"}:                                `--revision "Canary"` + form,
		{Revision: "1.2"}:                                   `--revision "1.2"` + form,
		{Revision: long}:                                    `--revision "` + long + `"` + form,
		{Revision: "-", Tag: "a b"}:                         `--revision "-"` + form + "\n" + `--tag "a b"` + form,
		{Tag: "default"}:                                    `--tag default: is the name of the revision itself; both would be called for its pods`,
		{Revision: "default", Tag: "default"}:               `--tag default: is the name of the revision itself; both would be called for its pods`,
		{Revision: "canary", Tag: "canary"}:                 `--tag canary: is the name of the revision itself; both would be called for its pods`,
		{Revision: "canary", NamespacesByDefault: true}:     `--namespaces-by-default: "canary" is not the default; give it --tag default`,
		{Tag: "prod", NamespacesByDefault: true}:            `--namespaces-by-default: "prod" is not the default; give it --tag default`,
		{Revision: "canary", Neutral: true}:                 `--neutral: only the default installation can be, without --revision and --tag; delete the others`,
		{Revision: "canary", Tag: "default", Neutral: true}: `--neutral: only the default installation can be, without --revision and --tag; delete the others`,
	} {
		if got, err := w.Objects(); err == nil || err.Error() != want {
			t.Errorf("%+v: %v, %v\nwant %s", w, got, err, want)
		}
	}
	if got := mesh.SelfTestRevisionNamespace(long[:40]); len(got) > 63 {
		t.Errorf("the longest namespace has %d characters: %s", len(got), got)
	}
	if got := configuration(t, Webhook{Revision: long[:40]}).Webhooks[0].ClientConfig.Service.Name; len(got) != 63 {
		t.Errorf("the longest Service name has %d characters: %s", len(got), got)
	}
}

// A revision's injector gets the right to patch that one object, and to try out pods
// where it tests; the default's has them from its installation.
func TestWebhookRights(t *testing.T) {
	for w, account := range map[Webhook]string{
		{Revision: "canary"}:                 "istio-sidecar-injector-canary-service-account",
		{Revision: "canary", Tag: "prod"}:    "istio-sidecar-injector-canary-service-account",
		{Revision: "canary", Tag: "default"}: "istio-sidecar-injector-canary-service-account",
		{Tag: "prod"}:                        "istio-sidecar-injector-service-account",
		{}:                                   "",
		{Neutral: true}:                      "",
	} {
		objects, err := w.Objects()
		if err != nil {
			t.Fatal(err)
		}
		want := configuration(t, w)
		if diff := cmp.Diff(want, objects[len(objects)-1]); diff != "" {
			t.Errorf("%+v: the last object is another\n%s", w, diff)
		}
		if account == "" {
			if len(objects) != 1 {
				t.Errorf("%+v: %d objects", w, len(objects))
			}
			continue
		}
		role, binding := objects[0].(*rbacv1.ClusterRole), objects[1].(*rbacv1.ClusterRoleBinding)
		rules := []rbacv1.PolicyRule{{
			APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations"},
			ResourceNames: []string{want.Name}, Verbs: []string{"patch"},
		}}
		if diff := cmp.Diff(rules, role.Rules); diff != "" {
			t.Errorf("%+v: %s", w, diff)
		}
		subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: "istio-system"}}
		if diff := cmp.Diff(subjects, binding.Subjects); diff != "" || binding.RoleRef.Name != role.Name || binding.RoleRef.Kind != "ClusterRole" {
			t.Errorf("%+v: %+v %s", w, binding.RoleRef, diff)
		}
		if !cmp.Equal(role.Labels, want.Labels) || !cmp.Equal(binding.Labels, want.Labels) {
			t.Errorf("%+v: labels %v, %v", w, role.Labels, binding.Labels)
		}
		for _, o := range objects[2 : len(objects)-1] {
			switch o := o.(type) {
			case *rbacv1.Role:
				rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"create"}}}
				if diff := cmp.Diff(rules, o.Rules); diff != "" {
					t.Errorf("%+v in %s: %s", w, o.Namespace, diff)
				}
			case *rbacv1.RoleBinding:
				if diff := cmp.Diff(subjects, o.Subjects); diff != "" || o.RoleRef.Name != role.Name || o.RoleRef.Kind != "Role" {
					t.Errorf("%+v in %s: %+v %s", w, o.Namespace, o.RoleRef, diff)
				}
			}
		}
	}
}
