package inject

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func pod(t testing.TB, text string) *Pod {
	t.Helper()
	p, err := ParsePod(toJSON(t, []byte(text)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestDecideOrder follows the table of Istio's handler: what comes first decides.
func TestDecideOrder(t *testing.T) {
	const spec = ", spec: {containers: [{name: web}]}}"
	cases := []struct {
		pod, namespace string
		inject         bool
		reason         Reason
	}{
		{"{metadata: {}" + spec, "shop", true, Selected},
		{"{metadata: {}, spec: {hostNetwork: true, containers: [{name: web}]}}", "shop", false, HostNetwork},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}}, spec: {hostNetwork: true, containers: [{name: web}]}}", "kube-system", false, HostNetwork},
		{"{metadata: {annotations: {kubernetes.io/config.mirror: x}}" + spec, "shop", false, MirrorPod},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}}" + spec, "kube-system", false, IgnoredNamespace},
		{"{metadata: {}" + spec, "istio-system", false, IgnoredNamespace},
		{"{metadata: {}, spec: {os: {name: windows}, containers: [{name: web}]}}", "shop", false, Windows},
		{"{metadata: {}, spec: {nodeSelector: {kubernetes.io/os: windows}, containers: [{name: web}]}}", "shop", false, Windows},
		{"{metadata: {}, spec: {os: {name: linux}, nodeSelector: {kubernetes.io/os: windows}, containers: [{name: web}]}}", "shop", true, Selected},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}}" + spec, "shop", true, LabelTrue},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", false, LabelFalse},
		{"{metadata: {annotations: {sidecar.istio.io/inject: 'true'}}" + spec, "shop", true, AnnotationTrue},
		{"{metadata: {annotations: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", false, AnnotationFalse},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}, annotations: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", true, LabelTrue},
		{"{metadata: {labels: {sidecar.istio.io/inject: ''}, annotations: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", true, Selected},
		{"{metadata: {annotations: {sidecar.istio.io/inject: ''}}" + spec, "shop", true, Selected},
		// Who opted out is not asked whether the rest of it makes sense.
		{"{metadata: {labels: {sidecar.istio.io/inject: 'false'}, annotations: {sidecar.istio.io/status: rubbish}}" + spec, "shop", false, LabelFalse},
	}
	s := settings(t)
	for _, c := range cases {
		got, err := Decide(pod(t, c.pod), mesh.Namespace{Name: c.namespace}, s)
		if err != nil || got.Inject != c.inject || got.Reason != c.reason || got.Why == "" {
			t.Errorf("%s in %q: %+v, %v; want %v, %s", c.pod, c.namespace, got, err, c.inject, c.reason)
		}
	}
}

// TestDecideByDefault: what the settings say counts where the pod says nothing, or
// nothing that can be understood, which its author is told.
func TestDecideByDefault(t *testing.T) {
	options := defaultOptions()
	options.NeverInject = []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "node"}}}
	options.AlwaysInject = []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "web"}}, {MatchLabels: map[string]string{"tier": "node"}}}
	options.Policy = "disabled"
	s, err := NewSettings(options)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		labels, annotations string
		inject              bool
		reason              Reason
		warned              bool
	}{
		{"", "", false, PolicyDisabled, false},
		{"tier: web", "", true, AlwaysSelected, false},
		{"tier: node", "", false, NeverSelected, false},
		{"tier: node, sidecar.istio.io/inject: 'true'", "", true, LabelTrue, false},
		{"tier: web, sidecar.istio.io/inject: 'false'", "", false, LabelFalse, false},
		{"tier: web", "sidecar.istio.io/inject: 'false'", false, AnnotationFalse, false},
		{"sidecar.istio.io/inject: enabled", "", false, PolicyDisabled, true},
		{"tier: web, sidecar.istio.io/inject: 'True'", "", true, AlwaysSelected, true},
		{"tier: web", "sidecar.istio.io/inject: 'yes'", true, AlwaysSelected, true},
	} {
		p := pod(t, "{metadata: {labels: {"+c.labels+"}, annotations: {"+c.annotations+"}}, spec: {containers: [{name: web}]}}")
		d, err := Decide(p, mesh.Namespace{Name: "shop"}, s)
		if err != nil || d.Inject != c.inject || d.Reason != c.reason || (len(d.Warnings) == 1) != c.warned {
			t.Errorf("labels {%s} annotations {%s}: %+v, %v; want %+v", c.labels, c.annotations, d, err, c)
		}
	}
}

// TestStrictNamespacesLeaveNobodyOut, whoever wanted it.
func TestStrictNamespacesLeaveNobodyOut(t *testing.T) {
	ns := mesh.Namespace{Name: "vault", Labels: map[string]string{mesh.CaptureLabel: mesh.CaptureStrict}}
	for text, refused := range map[string]bool{
		"{metadata: {}, spec: {containers: [{name: web}]}}":                                                                false,
		"{metadata: {}, spec: {hostNetwork: true, containers: [{name: web}]}}":                                             true,
		"{metadata: {}, spec: {os: {name: windows}, containers: [{name: web}]}}":                                           true,
		"{metadata: {labels: {sidecar.istio.io/inject: 'false'}}, spec: {containers: [{name: web}]}}":                      true,
		"{metadata: {annotations: {sidecar.istio.io/inject: 'false'}}, spec: {containers: [{name: web}]}}":                 true,
		"{metadata: {annotations: {kubernetes.io/config.mirror: x}}, spec: {hostNetwork: false, containers: [{name: a}]}}": false,
	} {
		_, err := Decide(pod(t, text), ns, settings(t))
		refusal, _ := errors.AsType[*Refusal](err)
		if (refusal != nil && refusal.Reason == StrictCapture) != refused {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestIgnoredNamesWhatHasNoEffect(t *testing.T) {
	p := pod(t, `{metadata: {annotations: {
		traffic.sidecar.istio.io/excludeOutboundPorts: "3306", sidecar.istio.io/proxyCPU: "1", proxy.istio.io/config: x,
		traffic.sidecar.istio.io/excludeOutboundPort: "3306", garrison.io/capture: x,
		example.com/proxy: x, sidecar.istio.io.example.com/a: x, sidecar.istio.io/bootstrapOverride: x}},
		spec: {containers: [{name: web}]}}`)
	got := strings.Join(Ignored(p), "\n")
	for _, want := range []string{"garrison.io/capture", "sidecar.istio.io/bootstrapOverride", "traffic.sidecar.istio.io/excludeOutboundPort"} {
		if !strings.Contains(got, "annotation "+want+" is not known") {
			t.Errorf("%s\ndoes not name %s", got, want)
		}
	}
	if strings.Count(got, "\n") != 2 {
		t.Errorf("%s\nnames more", got)
	}
}

func TestMessagesDoNotRepeatWhatIsLong(t *testing.T) {
	p := pod(t, "{metadata: {annotations: {sidecar.istio.io/status: "+strings.Repeat("x", 10_000)+"}}, spec: {containers: [{name: web}]}}")
	if _, err := Edit(p, Situation{}, settings(t)); err == nil || len(err.Error()) > 400 {
		t.Errorf("%v", err)
	}
}
