package inject

import (
	"slices"
	"strings"
	"testing"
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
		want           Decision
	}{
		{"{metadata: {}" + spec, "shop", Decision{true, Selected}},
		{"{metadata: {}, spec: {hostNetwork: true, containers: [{name: web}]}}", "shop", Decision{false, HostNetwork}},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}}, spec: {hostNetwork: true, containers: [{name: web}]}}", "kube-system", Decision{false, HostNetwork}},
		{"{metadata: {annotations: {kubernetes.io/config.mirror: x}}" + spec, "shop", Decision{false, MirrorPod}},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}}" + spec, "kube-system", Decision{false, IgnoredNamespace}},
		{"{metadata: {}" + spec, "istio-system", Decision{false, IgnoredNamespace}},
		{"{metadata: {namespace: kube-public}" + spec, "", Decision{false, IgnoredNamespace}},
		{"{metadata: {namespace: kube-public}" + spec, "shop", Decision{true, Selected}}, // the request knows better
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}}" + spec, "shop", Decision{true, LabelTrue}},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", Decision{false, LabelFalse}},
		{"{metadata: {annotations: {sidecar.istio.io/inject: 'true'}}" + spec, "shop", Decision{true, AnnotationTrue}},
		{"{metadata: {annotations: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", Decision{false, AnnotationFalse}},
		{"{metadata: {labels: {sidecar.istio.io/inject: 'true'}, annotations: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", Decision{true, LabelTrue}},
		{"{metadata: {labels: {sidecar.istio.io/inject: ''}, annotations: {sidecar.istio.io/inject: 'false'}}" + spec, "shop", Decision{true, Selected}},
		{"{metadata: {annotations: {sidecar.istio.io/inject: ''}}" + spec, "shop", Decision{true, Selected}},
		// Who opted out is not asked whether the rest of it makes sense.
		{"{metadata: {labels: {sidecar.istio.io/inject: 'false'}, annotations: {sidecar.istio.io/status: rubbish}}" + spec, "shop", Decision{false, LabelFalse}},
	}
	for _, c := range cases {
		if got, err := Decide(pod(t, c.pod), c.namespace); err != nil || got != c.want {
			t.Errorf("%s in %q: %v, %v; want %v", c.pod, c.namespace, got, err, c.want)
		}
	}
}

func TestDecideRefusesWhatIsNeitherTrueNorFalse(t *testing.T) {
	for where, field := range map[string]string{
		"labels":      `metadata.labels[sidecar.istio.io/inject]: "enabled" is neither true nor false`,
		"annotations": `metadata.annotations[sidecar.istio.io/inject]: "enabled" is neither true nor false`,
	} {
		p := pod(t, "{metadata: {"+where+": {sidecar.istio.io/inject: enabled}}, spec: {containers: [{name: web}]}}")
		if d, err := Decide(p, "shop"); err == nil || err.Error() != field {
			t.Errorf("%s: %v, %v; want %s", where, d, err, field)
		}
	}
}

func TestIgnoredNamesWhatHasNoEffect(t *testing.T) {
	p := pod(t, `{metadata: {annotations: {
		traffic.sidecar.istio.io/excludeOutboundPorts: "3306", sidecar.istio.io/proxyCPU: "1", proxy.istio.io/config: x,
		example.com/proxy: x, sidecar.istio.io.example.com/a: x, sidecar.istio.io/bootstrapOverride: x}},
		spec: {containers: [{name: web}]}}`)
	want := []string{"proxy.istio.io/config", "sidecar.istio.io/bootstrapOverride", "traffic.sidecar.istio.io/excludeOutboundPorts"}
	if got := Ignored(p); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestMessagesDoNotRepeatWhatIsLong(t *testing.T) {
	p := pod(t, "{metadata: {annotations: {sidecar.istio.io/status: "+strings.Repeat("x", 10_000)+"}}, spec: {containers: [{name: web}]}}")
	if _, err := Decide(p, "shop"); err == nil || len(err.Error()) > 300 {
		t.Errorf("%v", err)
	}
}
