package inject

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		patterns string
		name     string
		named    bool
		want     bool
	}{
		{"*", "a", false, true},
		{"*", "a", true, false},
		{"* a", "a", true, true},
		{"a*", "abc", true, true},
		{"a*", "b", false, false},
		{"a", "ab", false, false},
		{"", "a", false, false},
	} {
		if got := patterns(strings.Fields(c.patterns)).grant(c.name, c.named); got != c.want {
			t.Errorf("%q of %q, named %v: %v", c.name, c.patterns, c.named, got)
		}
	}
}

// TestFirstRuleHolds: rules are looked at in their order, and what one leaves out is at
// its default.
func TestFirstRuleHolds(t *testing.T) {
	o := defaultOptions()
	o.Trust = []TrustRule{
		{Namespaces: metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}, Images: &[]string{"a/*"}},
		{Namespaces: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpExists}}}, Annotations: &[]string{}},
		{Volumes: &[]string{"*"}},
	}
	s, err := NewSettings(o)
	if err != nil {
		t.Fatal(err)
	}
	for team, c := range map[string]struct{ annotation, image, hostPath bool }{
		"a": {true, true, false},
		"b": {false, false, false},
		"":  {true, false, true},
	} {
		ns := mesh.Namespace{Name: "n"}
		if team != "" {
			ns.Labels = map[string]string{"team": team}
		}
		rule := s.trusts(ns)
		if rule.annotations.grant(mesh.ProxyCPU, false) != c.annotation || rule.images.grant("a/b", false) != c.image || rule.volumes.grant(hostPath, false) != c.hostPath {
			t.Errorf("team %q: %+v", team, rule)
		}
	}
	o.Trust = []TrustRule{{Namespaces: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}}}
	if _, err := NewSettings(o); err == nil || !strings.Contains(err.Error(), "trust[0].namespaces") {
		t.Errorf("%v", err)
	}
}

// TestVolumesOfSeveralKinds: the API server would refuse it, but not before us.
func TestVolumesOfSeveralKinds(t *testing.T) {
	p := pod(t, `{metadata: {annotations: {sidecar.istio.io/userVolume: '{"a":{"emptyDir":{},"hostPath":{"path":"/"}}}'}}, spec: {containers: [{name: a}]}}`)
	_, err := Edit(p, Situation{}, settings(t))
	if refusal, _ := errors.AsType[*Refusal](err); refusal == nil || refusal.Reason != NotGranted {
		t.Errorf("%v", err)
	}
}

// TestWhatOpensIsMarked: what the documentation marks as opening is what a strict
// namespace refuses, and nothing else.
func TestWhatOpensIsMarked(t *testing.T) {
	values := map[string]string{
		mesh.InterceptionMode: "NONE", mesh.ProxyConfig: "concurrency: 1", mesh.ProxyImage: "proxy-debug", mesh.Templates: "sidecar",
		mesh.UserVolume: `{"a":{"emptyDir":{}}}`, mesh.UserVolumeMount: `{"a":{"mountPath":"/a"}}`, mesh.ScrapeTargets: "8080:/m",
	}
	ns := mesh.Namespace{Name: "vault", Labels: map[string]string{mesh.CaptureLabel: mesh.CaptureStrict}}
	for _, a := range parsed() {
		value := values[a.Name]
		switch {
		case value != "":
		case strings.Contains(a.Value, "range"):
			value = "10.0.0.0/8"
		case a.Value == "true or false", strings.Contains(a.Value, "true or false"):
			value = "true"
		case a.Value == "quantity":
			value = a.Default
		default:
			value = "8080"
		}
		p := pod(t, "{metadata: {annotations: {}}, spec: {containers: [{name: a}]}}")
		p.meta.Annotations[a.Name] = value
		_, err := Edit(p, Situation{Namespace: ns}, settings(t))
		refusal, _ := errors.AsType[*Refusal](err)
		if got := refusal != nil && refusal.Reason == StrictCapture; got != a.Opens {
			t.Errorf("%s=%s: refused for its opening %v, marked %v: %v", a.Name, value, got, a.Opens, err)
		}
	}
}
