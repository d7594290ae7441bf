package inject

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Selection is what the API server makes of one entry of a webhook configuration
// when a pod is created.
type Selection struct {
	Entry  string // its name
	Called bool
	Why    string // the first thing that kept it from being called, for people

	// Err is a match condition that gave no answer, where nothing else keeps the entry
	// from being called: neither Called nor Why say anything then. If the condition
	// itself is at fault, the API server refuses the pod, or under failurePolicy Ignore
	// does not call.
	Err error
}

// Select says of each entry of a configuration, in its order, whether the API server
// calls it for a pod that is created in a namespace with these labels: by rules,
// namespaceSelector, objectSelector and match conditions, as the API server looks at
// them. The namespace has the label kubernetes.io/metadata.name whether or not it is
// given, and what the API server defaults in a configuration counts as it does there.
//
// What a condition says of the pod is for the caller to find out.
func Select(c *admissionregistrationv1.MutatingWebhookConfiguration, ns mesh.Namespace, podLabels map[string]string,
	condition func(admissionregistrationv1.MatchCondition) (bool, error),
) []Selection {
	nsLabels := maps.Clone(ns.Labels)
	if nsLabels == nil {
		nsLabels = map[string]string{}
	}
	nsLabels[corev1.LabelMetadataName] = ns.Name
	var all []Selection
	for _, entry := range c.Webhooks {
		s := Selection{Entry: entry.Name}
		s.Why = cmp.Or(
			outsideRules(entry.Rules),
			unmet("namespace", entry.NamespaceSelector, nsLabels),
			unmet("pod", entry.ObjectSelector, podLabels),
		)
		if s.Why == "" {
			s.Why, s.Err = unfulfilled(entry.MatchConditions, condition)
		}
		s.Called = s.Why == "" && s.Err == nil
		all = append(all, s)
	}
	return all
}

// outsideRules says so where no rule is about the creation of pods.
func outsideRules(rules []admissionregistrationv1.RuleWithOperations) string {
	names := func(values []string, wanted ...string) bool {
		return slices.ContainsFunc(values, func(v string) bool { return slices.Contains(wanted, v) })
	}
	for _, r := range rules {
		created := slices.Contains(r.Operations, admissionregistrationv1.OperationAll) || slices.Contains(r.Operations, admissionregistrationv1.Create)
		namespaced := r.Scope == nil || *r.Scope != admissionregistrationv1.ClusterScope
		if created && namespaced && names(r.APIGroups, "", "*") && names(r.APIVersions, "v1", "*") && names(r.Resources, "pods", "pods/*", "*", "*/*") {
			return ""
		}
	}
	return "the entry's rules do not name the creation of pods"
}

// unmet says which requirement of a selector the labels of a namespace or pod do
// not meet: "" for none. An absent selector selects everything.
func unmet(what string, s *metav1.LabelSelector, has map[string]string) string {
	if s == nil {
		return ""
	}
	var all requirements
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		all = append(all, in(key, s.MatchLabels[key]))
	}
	for _, r := range append(all, s.MatchExpressions...) {
		selector, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: requirements{r}})
		if err != nil {
			return fmt.Sprintf("the entry's %s selector cannot be read: %v", what, err) // no API server keeps such an entry
		}
		if !selector.Matches(labels.Set(has)) {
			return inWords(what, r, has)
		}
	}
	return ""
}

// inWords says how labels miss a requirement.
func inWords(what string, r metav1.LabelSelectorRequirement, has map[string]string) string {
	if r.Key == corev1.LabelMetadataName && r.Operator == metav1.LabelSelectorOpDoesNotExist {
		return "the entry is switched off: no namespace is without the label " + r.Key
	}
	is := "absent"
	if value, ok := has[r.Key]; ok {
		is = fmt.Sprintf("%q", value)
	}
	wants := "the entry wants "
	switch r.Operator {
	case metav1.LabelSelectorOpNotIn:
		wants = "which the entry leaves out"
	case metav1.LabelSelectorOpExists:
		wants += "any value"
	case metav1.LabelSelectorOpDoesNotExist:
		wants += "it absent"
	default:
		wants += strings.Join(r.Values, " or ")
	}
	return fmt.Sprintf("%s label %s is %s, %s", what, r.Key, is, wants)
}

// unfulfilled says which condition does not hold, or else returns the first that
// gave no answer. The API server too asks all before it minds an error.
func unfulfilled(conditions []admissionregistrationv1.MatchCondition, holds func(admissionregistrationv1.MatchCondition) (bool, error)) (string, error) {
	var first error
	for _, c := range conditions {
		switch ok, err := holds(c); {
		case err != nil:
			first = cmp.Or(first, fmt.Errorf("condition %s: %w", c.Name, err))
		case !ok:
			return fmt.Sprintf("condition %s does not hold: %s", c.Name, c.Expression), nil
		}
	}
	return "", first
}
