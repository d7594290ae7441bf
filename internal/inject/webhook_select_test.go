package inject

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Labels as users write them.
const (
	enabled  = "istio-injection=enabled"
	disabled = "istio-injection=disabled"
	current  = "istio.io/rev=default"
	canary   = "istio.io/rev=canary"
	prod     = "istio.io/rev=prod"
	inLabel  = "sidecar.istio.io/inject=true"
	outLabel = "sidecar.istio.io/inject=false"
)

func set(t testing.TB, s string) labels.Set {
	t.Helper()
	l, err := labels.ConvertSelectorToLabelsMap(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// called returns which entries the API server calls, as configuration/entry, one
// after the other.
func called(t testing.TB, installed []*admissionregistrationv1.MutatingWebhookConfiguration, ns mesh.Namespace, pod labels.Set) string {
	t.Helper()
	var names []string
	for _, c := range installed {
		for _, s := range Select(c, ns, pod, fulfilled) {
			if s.Called {
				names = append(names, strings.TrimPrefix(c.Name, "istio-")+"/"+strings.TrimSuffix(s.Entry, "."+mesh.InjectorWebhookSuffix))
			}
			if s.Called != (s.Why == "") || s.Err != nil {
				t.Errorf("%s/%s: called %v, because %q, %v", c.Name, s.Entry, s.Called, s.Why, s.Err)
			}
		}
	}
	return strings.Join(names, " ")
}

func fulfilled(admissionregistrationv1.MatchCondition) (bool, error) { return true, nil }

// Which entries the API server calls for a namespace and a pod, in a cluster with
// the default installation, a revision canary, and a tag prod on that, and in one
// where canary is the default; never two, and none in the namespaces that the
// injector itself depends on.
func TestSelection(t *testing.T) {
	beside := []*admissionregistrationv1.MutatingWebhookConfiguration{
		configuration(t, Webhook{}), configuration(t, Webhook{Revision: "canary"}), configuration(t, Webhook{Revision: "canary", Tag: "prod"}),
	}
	instead := []*admissionregistrationv1.MutatingWebhookConfiguration{
		configuration(t, Webhook{Neutral: true}), configuration(t, Webhook{Revision: "canary"}),
		configuration(t, Webhook{Revision: "canary", Tag: "default", NamespacesByDefault: true}),
	}
	const (
		def = "sidecar-injector/"
		rev = "sidecar-injector-canary/"
		pro = "revision-tag-prod/"
		tag = "revision-tag-default/"
	)
	cases := []struct{ namespace, pod, beside, instead string }{
		{enabled, "", def + "namespace", tag + "namespace"},
		{enabled, inLabel, def + "namespace", tag + "namespace"},
		{enabled, outLabel, "", ""},
		{enabled, canary, def + "namespace", tag + "namespace"},
		{enabled + "," + canary, "", def + "namespace", tag + "namespace"},
		{enabled + "," + prod, canary, def + "namespace", tag + "namespace"},
		{disabled, "", "", ""},
		{disabled, inLabel, "", ""},
		{disabled, current, "", ""},
		{disabled, canary + "," + inLabel, "", ""},
		{disabled + "," + current, inLabel, "", ""},
		{disabled + "," + canary, "", "", ""},
		{"", "", "", tag + "auto"},
		{"", inLabel, def + "object", tag + "object"},
		{"", outLabel, "", ""},
		{"", current, def + "rev.object", tag + "rev.object"},
		{"", current + "," + inLabel, def + "rev.object", tag + "rev.object"},
		{"", current + "," + outLabel, "", ""},
		{"", canary, rev + "rev.object", rev + "rev.object"},
		{"", canary + "," + inLabel, rev + "rev.object", rev + "rev.object"},
		{"", canary + "," + outLabel, "", ""},
		{"", prod, pro + "rev.object", ""},
		{"", "istio.io/rev=gone," + inLabel, "", ""},
		{current, "", def + "rev.namespace", tag + "rev.namespace"},
		{current, inLabel, def + "rev.namespace", tag + "rev.namespace"},
		{current, outLabel, "", ""},
		{current, canary, def + "rev.namespace", tag + "rev.namespace"},
		{canary, "", rev + "rev.namespace", rev + "rev.namespace"},
		{canary, inLabel, rev + "rev.namespace", rev + "rev.namespace"},
		{canary, outLabel, "", ""},
		{canary, "istio.io/rev=stable", rev + "rev.namespace", rev + "rev.namespace"},
		{canary, current, rev + "rev.namespace", rev + "rev.namespace"},
		{prod, "", pro + "rev.namespace", ""},
		{prod, current, pro + "rev.namespace", ""},
		{"istio.io/rev=gone", inLabel, "", ""},
	}
	for _, c := range cases {
		ns := mesh.Namespace{Name: "shop", Labels: set(t, c.namespace)}
		if got := called(t, beside, ns, set(t, c.pod)); got != c.beside {
			t.Errorf("canary beside the default, namespace %q, pod %q: %q, want %q", c.namespace, c.pod, got, c.beside)
		}
		if got := called(t, instead, ns, set(t, c.pod)); got != c.instead {
			t.Errorf("canary is the default, namespace %q, pod %q: %q, want %q", c.namespace, c.pod, got, c.instead)
		}
		for _, system := range []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, mesh.SystemNamespace} {
			ns := mesh.Namespace{Name: system, Labels: set(t, c.namespace)}
			if got := called(t, slices.Concat(beside, instead), ns, set(t, c.pod)); got != "" {
				t.Errorf("%s with %q, pod %q: %s is called", system, c.namespace, c.pod, got)
			}
		}
	}
	for name, want := range map[string]string{
		"local-path-storage":   "", // only where nobody asked for it
		mesh.SelfTestNamespace: tag + "auto",
	} {
		if got := called(t, instead, mesh.Namespace{Name: name}, nil); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := called(t, instead, mesh.Namespace{Name: "local-path-storage"}, set(t, inLabel)); got != tag+"object" {
		t.Errorf("local-path-storage, pod %s: %q", inLabel, got)
	}
}

// TestNeverTwice goes through every value that a label can have for these
// configurations: absent, each that an entry names, and another.
func TestNeverTwice(t *testing.T) {
	installed := []*admissionregistrationv1.MutatingWebhookConfiguration{
		configuration(t, Webhook{Neutral: true}), configuration(t, Webhook{Revision: "canary"}), configuration(t, Webhook{Revision: "stable"}),
		configuration(t, Webhook{Revision: "canary", Tag: "prod"}), configuration(t, Webhook{Revision: "stable", Tag: "default", NamespacesByDefault: true}),
	}
	seen := map[string]bool{}
	everyLabels(func(ns, pod labels.Set) {
		names := called(t, installed, mesh.Namespace{Name: "shop", Labels: ns}, pod)
		if strings.Contains(names, " ") {
			t.Errorf("namespace %v, pod %v: %s are called", ns, pod, names)
		}
		seen[names] = true
	})
	if len(seen) != 1+3*2+5 { // none, three with two entries, one with five
		t.Errorf("called %v; not every entry has a pod that it is for", seen)
	}
}

// everyLabels calls f with each combination of the values that selection goes by.
func everyLabels(f func(ns, pod labels.Set)) {
	values := func(key string, values ...string) []labels.Set {
		all := []labels.Set{{}}
		for _, v := range values {
			all = append(all, labels.Set{key: v})
		}
		return all
	}
	revisions := values(mesh.RevisionLabel, "", "default", "canary", "stable", "prod", "other")
	for _, injection := range values(mesh.InjectionLabel, "", "enabled", "disabled", "other") {
		for _, nsRev := range revisions {
			for _, inject := range values(mesh.InjectLabel, "", "true", "false", "other") {
				for _, podRev := range revisions {
					f(labels.Merge(injection, nsRev), labels.Merge(inject, podRev))
				}
			}
		}
	}
}

// TestSelectAgrees holds Select to apimachinery's own reading of the selectors.
func TestSelectAgrees(t *testing.T) {
	for _, w := range []Webhook{{NamespacesByDefault: true}, {Revision: "canary"}, {Neutral: true}} {
		c := configuration(t, w)
		everyLabels(func(ns, pod labels.Set) {
			for _, name := range []string{"shop", "kube-system", "local-path-storage"} {
				full := labels.Merge(ns, labels.Set{corev1.LabelMetadataName: name})
				for i, s := range Select(c, mesh.Namespace{Name: name, Labels: ns}, pod, fulfilled) {
					want := matches(t, c.Webhooks[i].NamespaceSelector, full) && matches(t, c.Webhooks[i].ObjectSelector, pod)
					if s.Called != want {
						t.Errorf("%s, namespace %v, pod %v: called %v because %q, want %v", s.Entry, full, pod, s.Called, s.Why, want)
					}
				}
			}
		})
	}
}

func matches(t *testing.T, s *metav1.LabelSelector, l labels.Set) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return selector.Matches(l)
}

// Why not, in words; of several reasons the first that the API server sees.
func TestSelectSays(t *testing.T) {
	c := configuration(t, Webhook{NamespacesByDefault: true})
	one := func(change func(*admissionregistrationv1.MutatingWebhook)) *admissionregistrationv1.MutatingWebhookConfiguration {
		e := *c.Webhooks[0].DeepCopy()
		change(&e)
		return &admissionregistrationv1.MutatingWebhookConfiguration{Webhooks: []admissionregistrationv1.MutatingWebhook{e}}
	}
	selector := func(s *metav1.LabelSelector) *admissionregistrationv1.MutatingWebhookConfiguration {
		return one(func(e *admissionregistrationv1.MutatingWebhook) { e.NamespaceSelector = s })
	}
	rule := func(change func(*admissionregistrationv1.RuleWithOperations)) *admissionregistrationv1.MutatingWebhookConfiguration {
		return one(func(e *admissionregistrationv1.MutatingWebhook) { change(&e.Rules[0]) })
	}
	const noRule = "the entry's rules do not name the creation of pods"
	cases := []struct {
		config         *admissionregistrationv1.MutatingWebhookConfiguration
		namespace, pod string
		want           []string
	}{
		{c, disabled, "", []string{
			`namespace label istio-injection is "disabled", the entry wants enabled`,
			`namespace label istio-injection is "disabled", the entry wants it absent`,
			`namespace label istio.io/rev is absent, the entry wants default`,
			`namespace label istio-injection is "disabled", the entry wants it absent`,
			`namespace label istio-injection is "disabled", the entry wants it absent`,
		}},
		{c, "", outLabel + "," + canary, []string{
			`namespace label istio-injection is absent, the entry wants enabled`,
			`pod label sidecar.istio.io/inject is "false", the entry wants true`,
			`namespace label istio.io/rev is absent, the entry wants default`,
			`pod label sidecar.istio.io/inject is "false", which the entry leaves out`,
			`pod label sidecar.istio.io/inject is "false", the entry wants it absent`,
		}},
		{configuration(t, Webhook{Neutral: true}), enabled, "", slices.Repeat([]string{
			`the entry is switched off: no namespace is without the label kubernetes.io/metadata.name`}, 4)},
		{selector(&metav1.LabelSelector{MatchLabels: map[string]string{"b": "2", "a": "1"}}), "", "", []string{`namespace label a is absent, the entry wants 1`}},
		{selector(&metav1.LabelSelector{MatchExpressions: requirements{in("a", "1", "2")}}), "a=3", "", []string{`namespace label a is "3", the entry wants 1 or 2`}},
		{selector(&metav1.LabelSelector{MatchExpressions: requirements{{Key: "a", Operator: "Exists"}}}), "", "", []string{`namespace label a is absent, the entry wants any value`}},
		{selector(&metav1.LabelSelector{MatchExpressions: requirements{{Key: "a", Operator: "Like"}}}), "", "", []string{
			`the entry's namespace selector cannot be read: "Like" is not a valid label selector operator`}},
		{selector(&metav1.LabelSelector{MatchExpressions: requirements{notIn(corev1.LabelMetadataName, "shop")}}), "", "", []string{
			`namespace label kubernetes.io/metadata.name is "shop", which the entry leaves out`}},
		{selector(nil), disabled, "", []string{""}},
		{rule(func(r *admissionregistrationv1.RuleWithOperations) {
			r.Operations = []admissionregistrationv1.OperationType{"UPDATE"}
		}), enabled, "", []string{noRule}},
		{rule(func(r *admissionregistrationv1.RuleWithOperations) { r.Resources = []string{"pods/exec"} }), enabled, "", []string{noRule}},
		{rule(func(r *admissionregistrationv1.RuleWithOperations) { r.APIGroups = []string{"apps"} }), enabled, "", []string{noRule}},
		{rule(func(r *admissionregistrationv1.RuleWithOperations) { r.APIVersions = []string{"v2"} }), enabled, "", []string{noRule}},
		{rule(func(r *admissionregistrationv1.RuleWithOperations) {
			r.Scope = new(admissionregistrationv1.ClusterScope)
		}), enabled, "", []string{noRule}},
		{one(func(e *admissionregistrationv1.MutatingWebhook) { e.Rules = nil }), enabled, "", []string{noRule}},
		{rule(func(r *admissionregistrationv1.RuleWithOperations) {
			r.Operations, r.Scope = []admissionregistrationv1.OperationType{"*"}, nil
			r.APIGroups, r.APIVersions, r.Resources = []string{"*"}, []string{"*"}, []string{"*"}
		}), enabled, "", []string{""}},
	}
	for _, tc := range cases {
		var got []string
		for _, s := range Select(tc.config, mesh.Namespace{Name: "shop", Labels: set(t, tc.namespace)}, set(t, tc.pod), fulfilled) {
			got = append(got, s.Why)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("namespace %q, pod %q:\n%s", tc.namespace, tc.pod, diff)
		}
	}
}

// One condition that does not hold is enough, also beside one without an answer; a
// selector that does not match asks none.
func TestSelectConditions(t *testing.T) {
	no, yes := false, true
	cases := map[string]struct {
		answers   []*bool // nil: none
		namespace string
		want      Selection
	}{
		"hold":             {[]*bool{&yes, &yes}, enabled, Selection{Called: true}},
		"one does not":     {[]*bool{&yes, &no}, enabled, Selection{Why: "condition c1 does not hold: x1"}},
		"none without":     {[]*bool{nil, &no}, enabled, Selection{Why: "condition c1 does not hold: x1"}},
		"one is unknown":   {[]*bool{&yes, nil, nil}, enabled, Selection{Err: fmt.Errorf("condition c1: %w", fmt.Errorf("silent"))}},
		"are not asked":    {[]*bool{nil}, disabled, Selection{Why: `namespace label istio-injection is "disabled", the entry wants enabled`}},
		"there are none":   {nil, enabled, Selection{Called: true}},
		"first that fails": {[]*bool{&no, &no}, enabled, Selection{Why: "condition c0 does not hold: x0"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := configuration(t, Webhook{})
			c.Webhooks = c.Webhooks[:1]
			c.Webhooks[0].MatchConditions = nil
			for i := range tc.answers {
				c.Webhooks[0].MatchConditions = append(c.Webhooks[0].MatchConditions,
					admissionregistrationv1.MatchCondition{Name: fmt.Sprintf("c%d", i), Expression: fmt.Sprintf("x%d", i)})
			}
			got := Select(c, mesh.Namespace{Name: "shop", Labels: set(t, tc.namespace)}, nil, func(m admissionregistrationv1.MatchCondition) (bool, error) {
				answer := tc.answers[slices.Index(c.Webhooks[0].MatchConditions, m)]
				if answer == nil {
					return false, fmt.Errorf("silent")
				}
				return *answer, nil
			})
			tc.want.Entry = "namespace.sidecar-injector.istio.io"
			text := func(s Selection) string { return fmt.Sprintf("%+v", s) }
			if len(got) != 1 || text(got[0]) != text(tc.want) {
				t.Errorf("got %s, want %s", text(got[0]), text(tc.want))
			}
		})
	}
}
