package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestSelfTestPod holds that each pod is shown to its own entry and to no other of the
// cluster, in a namespace that the manifests or the rendering of a webhook make, and is
// injected whatever the policy. In one cluster a revision and tags stand beside the
// default, in the other a revision has taken its place.
func TestSelfTestPod(t *testing.T) {
	canary := inject.Webhook{Revision: "canary"}
	for name, installed := range map[string][]inject.Webhook{
		"beside":  {{NamespacesByDefault: true}, {Tag: "stable"}, canary, {Revision: "canary", Tag: "prod"}},
		"instead": {{Neutral: true}, canary, {Revision: "canary", Tag: "default", NamespacesByDefault: true}},
	} {
		t.Run(name, func(t *testing.T) {
			namespaces := baseNamespaces(t)
			// Who may try out pods, and where: by the base, by hack/revision, and by what is
			// rendered with a webhook.
			may := map[[2]string]bool{{"canary", mesh.SelfTestNamespace}: true}
			for ns := range namespaces {
				may[[2]string{mesh.DefaultRevision, ns}] = true
			}
			var configs []admissionregistrationv1.MutatingWebhookConfiguration
			for _, w := range installed {
				objects, err := w.Objects()
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range objects {
					switch o := o.(type) {
					case *corev1.Namespace:
						namespaces[o.Name] = o.Labels
					case *rbacv1.RoleBinding:
						if o.Subjects[0].Name == mesh.ServerAccount(w.Service()) {
							may[[2]string{cmp.Or(w.Revision, mesh.DefaultRevision), o.Namespace}] = true
						}
					case *admissionregistrationv1.MutatingWebhookConfiguration:
						configs = append(configs, *o)
					}
				}
			}
			tested := 0
			for _, revision := range []string{mesh.DefaultRevision, "canary"} {
				var own []admissionregistrationv1.MutatingWebhookConfiguration
				for _, c := range configs {
					if c.Labels[mesh.RevisionLabel] == revision {
						own = append(own, c)
					}
				}
				for _, test := range inject.SelfTests(revision, own) {
					labels, made := namespaces[test.Namespace]
					if !made || !may[[2]string{revision, test.Namespace}] {
						t.Errorf("%s of %s: namespace %s is made: %v; or revision %s may try out no pods there", test.Entry, test.Webhook, test.Namespace, made, revision)
					}
					ns := mesh.Namespace{Name: test.Namespace, Labels: labels}
					pod := selfTestPod(test)
					if got, want := shownTo(t, configs, ns, pod), test.Webhook+" "+test.Entry; !slices.Equal(got, []string{want}) {
						t.Errorf("the pod of %s is shown to %q", want, got)
					}
					for _, policy := range []string{"enabled", "disabled"} {
						settings := fmt.Sprintf("image: p\nrevision: %s\npolicy: %s\n", revision, policy)
						c, err := parse([]string{"--settings=" + file(t, settings)}, io.Discard)
						if err != nil {
							t.Fatal(err)
						}
						if d, err := inject.Decide(inject.FromPod(pod), ns, c.settings); err != nil || !d.Inject {
							t.Errorf("%s, policy %s: %+v, %v", test.Entry, policy, d, err)
						}
					}
					tested++
				}
			}
			if want := map[string]int{"beside": 5 + 2 + 2 + 2, "instead": 2 + 5}[name]; tested != want {
				t.Errorf("%d entries are tested, want %d", tested, want)
			}
		})
	}
}

// baseNamespaces are those of the self-test, by name, with their labels.
func baseNamespaces(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../manifests/base/selftest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]string{}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var ns corev1.Namespace
		if err := yaml.Unmarshal([]byte(doc), &ns); err != nil {
			t.Fatal(err)
		}
		if ns.Kind == "Namespace" {
			found[ns.Name] = ns.Labels
		}
	}
	return found
}

// shownTo says which entries of which configurations select a pod.
func shownTo(t *testing.T, configs []admissionregistrationv1.MutatingWebhookConfiguration, ns mesh.Namespace, pod *corev1.Pod) (entries []string) {
	t.Helper()
	for _, c := range configs {
		for _, s := range inject.Select(&c, ns, pod.Labels, func(admissionregistrationv1.MatchCondition) (bool, error) { return true, nil }) {
			if s.Called {
				entries = append(entries, c.Name+" "+s.Entry)
			}
		}
	}
	return entries
}
