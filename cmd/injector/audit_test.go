package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestSelfTestPod holds that each revision is shown its own pod, in the namespace that
// the manifests make, and injects it whatever its policy.
func TestSelfTestPod(t *testing.T) {
	text, err := os.ReadFile("../../manifests/base/selftest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n---\n")
	var ns corev1.Namespace
	if err := yaml.UnmarshalStrict([]byte(first), &ns); err != nil || ns.Name != mesh.SelfTestNamespace {
		t.Fatalf("%q, %v", ns.Name, err)
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
	for _, revision := range []string{mesh.DefaultRevision, "canary"} {
		pod := selfTestPod(revision)
		var shown []string
		for _, w := range []inject.Webhook{{NamespacesByDefault: true}, {Revision: "canary"}, {Revision: "canary", Tag: "prod"}} {
			c, err := w.Configuration()
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range c.Webhooks {
				if selects(t, entry.NamespaceSelector, ns.Labels) && selects(t, entry.ObjectSelector, pod.Labels) {
					shown = append(shown, c.Labels[mesh.RevisionLabel])
				}
			}
		}
		if !slices.Equal(shown, []string{revision}) {
			t.Errorf("the pod of revision %s is shown to %q", revision, shown)
		}
		for _, policy := range []string{"enabled", "disabled"} {
			c, err := parse([]string{"--settings=" + file(t, fmt.Sprintf("image: p\nrevision: %s\npolicy: %s\n", revision, policy))}, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if d, err := inject.Decide(inject.FromPod(pod), mesh.Namespace{Name: ns.Name, Labels: ns.Labels}, c.settings); err != nil || !d.Inject {
				t.Errorf("policy %s: %+v, %v", policy, d, err)
			}
		}
	}
}

func selects(t *testing.T, selector *metav1.LabelSelector, set map[string]string) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return s.Matches(labels.Set(set))
}
