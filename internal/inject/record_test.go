package inject

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestRecordMustBeTrue changes an injected pod behind its record, as somebody would who
// wants a pod that looks captured and is not.
func TestRecordMustBeTrue(t *testing.T) {
	c := testCase{settings: settings(t)}
	c.at.Namespace.Name = "shop"
	honest, err := c.inject([]byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","readinessProbe":{"tcpSocket":{"port":80}}}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	const redirect, proxy = "/spec/initContainers/0", "/spec/initContainers/1"
	for name, change := range map[string]struct {
		op, path, value, says string
	}{
		"no capture":           {"replace", redirect + "/args/0", `"wait"`, "container istio-init: args"},
		"another program":      {"add", redirect + "/command", `["true"]`, "container istio-init: command"},
		"another image":        {"replace", proxy + "/image", `"nginx"`, "container istio-proxy: image"},
		"another user":         {"replace", proxy + "/securityContext/runAsUser", `0`, "container istio-proxy: securityContext"},
		"a right more":         {"add", proxy + "/securityContext/capabilities/add", `["SYS_ADMIN"]`, "container istio-proxy: securityContext"},
		"another authority":    {"replace", proxy + "/env/5/value", `"elsewhere:1"`, `container istio-proxy: env: "CA_ADDR"`},
		"the same name twice":  {"add", proxy + "/env/-", `{"name":"TRUST_DOMAIN","value":"x"}`, `container istio-proxy: env: "TRUST_DOMAIN"`},
		"variables of a map":   {"add", proxy + "/envFrom", `[{"configMapRef":{"name":"x"}}]`, "container istio-proxy: envFrom"},
		"over our programs":    {"add", proxy + "/volumeMounts/-", `{"name":"x","mountPath":"/usr/local/bin/"}`, `container istio-proxy: volumeMounts: "/usr/local/bin/"`},
		"no certificate there": {"remove", proxy + "/volumeMounts/1", ``, "container istio-proxy: volumeMounts"},
		"a hook":               {"add", proxy + "/lifecycle", `{"postStart":{"exec":{"command":["kill","1"]}}}`, "container istio-proxy: lifecycle"},
		"another volume":       {"replace", "/spec/volumes/3", `{"name":"istiod-ca-cert","configMap":{"name":"mine"}}`, "spec.volumes[istiod-ca-cert]"},
		"not restarted":        {"remove", proxy + "/restartPolicy", ``, "container istio-proxy: restartPolicy"},
	} {
		op := Operation{Op: change.op, Path: change.path}
		if change.value != "" {
			op.Value = json.RawMessage(change.value)
		}
		forged, err := apply(honest.pod, []Operation{op})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = c.inject(forged)
		refusal, _ := errors.AsType[*Refusal](err)
		if refusal == nil || refusal.Reason != FalseStatus || !strings.Contains(err.Error(), change.says) {
			t.Errorf("%s: %v, want %s", name, err, change.says)
		}
	}
	for name, change := range map[string]Operation{
		"a variable of another webhook": {Op: "add", Path: proxy + "/env/-", Value: json.RawMessage(`{"name":"OTEL","value":"1"}`)},
		"a mount of another webhook":    {Op: "add", Path: proxy + "/volumeMounts/-", Value: json.RawMessage(`{"name":"x","mountPath":"/var/other"}`)},
		"the API server's default":      {Op: "add", Path: proxy + "/terminationMessagePath", Value: json.RawMessage(`"/dev/termination-log"`)},
		"its default in a variable":     {Op: "add", Path: proxy + "/env/0/valueFrom/fieldRef/apiVersion", Value: json.RawMessage(`"v1"`)},
		"its default in a volume":       {Op: "add", Path: "/spec/volumes/2/projected/defaultMode", Value: json.RawMessage(`420`)},
		"resources of an autoscaler":    {Op: "replace", Path: proxy + "/resources/requests/cpu", Value: json.RawMessage(`"1"`)},
	} {
		changed, err := apply(honest.pod, []Operation{change})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r, err := c.inject(changed); err != nil || len(r.Ops) != 0 {
			t.Errorf("%s: %v, %v", name, r.Ops, err)
		}
	}
}

// TestForgedRecordGivesNothing: a hash of today's and containers that only bear the names.
func TestForgedRecordGivesNothing(t *testing.T) {
	s := settings(t)
	forged := `{"metadata":{"name":"a","annotations":{"sidecar.istio.io/status":` +
		jsonString(`{"initContainers":["istio-init","istio-proxy"],"volumes":[],"hash":"`+s.Hash()+`"}`) +
		`}},"spec":{"initContainers":[{"name":"istio-init","image":"x"},{"name":"istio-proxy","image":"x","restartPolicy":"Always"}],"containers":[{"name":"a"}]}}`
	c := testCase{settings: s}
	if r, err := c.inject([]byte(forged)); err == nil {
		t.Errorf("believed: %v", r.Ops)
	}
	// With another hash it is an old sidecar: what it is made of goes, whatever it is.
	old := strings.ReplaceAll(forged, s.Hash(), "0000")
	r, err := c.inject([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	inits := object(t, r.pod)["spec"].(map[string]any)["initContainers"].([]any)
	if len(inits) != 2 || inits[1].(map[string]any)["image"] != "garrison/proxy:test" {
		t.Errorf("%v", inits)
	}
}

func jsonString(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// TestOutdated tells what an audit of running pods finds.
func TestOutdated(t *testing.T) {
	made := func(o Options, ns mesh.Namespace) *Pod {
		t.Helper()
		s, err := NewSettings(o)
		if err != nil {
			t.Fatal(err)
		}
		r, err := testCase{settings: s, at: Situation{Namespace: ns}}.inject([]byte(`{"metadata":{"name":"a","annotations":{"sidecar.istio.io/proxyCPU":"7m"}},"spec":{"containers":[{"name":"a"}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParsePod(r.pod)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	today := settings(t)
	shop := mesh.Namespace{Name: "shop"}
	quiet := mesh.Namespace{Name: "shop", Annotations: map[string]string{mesh.ExcludeInboundPorts: "80"}}
	for name, c := range map[string]struct {
		options  Options
		then, ns mesh.Namespace
		old      bool
	}{
		"as today":              {defaultOptions(), shop, shop, false},
		"another image":         {Options{Image: "garrison/proxy:v0"}, shop, shop, true},
		"what the pod beats":    {Options{Image: "garrison/proxy:test", Defaults: map[string]string{mesh.ProxyCPU: "9m"}}, shop, shop, false},
		"the namespace changed": {defaultOptions(), shop, quiet, true},
		"the namespace stayed":  {defaultOptions(), quiet, quiet, false},
		"probes no longer":      {Options{Image: "garrison/proxy:test", Defaults: map[string]string{mesh.RewriteProbes: "false"}}, shop, shop, true},
	} {
		if old, err := Outdated(made(c.options, c.then), c.ns, today); old != c.old || err != nil {
			t.Errorf("%s: %v, %v; want %v", name, old, err, c.old)
		}
	}
	strict := mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.CaptureLabel: mesh.CaptureStrict}}
	if old, err := Outdated(made(defaultOptions(), shop), strict, today); old || err != nil {
		t.Errorf("strict: %v, %v", old, err)
	}
}

func TestUninjectWantsARecord(t *testing.T) {
	for text, says := range map[string]string{
		`{metadata: {}, spec: {containers: [{name: a}]}}`:                                                                          "the pod has no sidecar",
		`{metadata: {annotations: {sidecar.istio.io/status: x}}, spec: {containers: [{name: a}]}}`:                                 "not the JSON",
		`{metadata: {annotations: {sidecar.istio.io/status: "{}", proxy.istio.io/overrides: x}}, spec: {containers: [{name: a}]}}`: "proxy.istio.io/overrides",
	} {
		if ops, err := Uninject(pod(t, text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, %v", text, ops, err)
		}
	}
}

// TestAudit tells pods that nobody wanted left out from those that somebody did.
func TestAudit(t *testing.T) {
	s := settings(t)
	labelled := mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}
	revision := mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.RevisionLabel: mesh.DefaultRevision}}
	for _, c := range []struct {
		name, pod      string
		ns             mesh.Namespace
		leftOut, meant bool
		drifted        bool
	}{
		{"made before the label", "{metadata: {}, spec: {containers: [{name: a}]}}", labelled, true, false, false},
		{"of a revision", "{metadata: {}, spec: {containers: [{name: a}]}}", revision, true, false, false},
		{"of another revision", "{metadata: {}, spec: {containers: [{name: a}]}}", mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.RevisionLabel: "canary"}}, false, false, false},
		{"unlabelled", "{metadata: {}, spec: {containers: [{name: a}]}}", mesh.Namespace{Name: "shop"}, false, false, false},
		{"disabled", "{metadata: {}, spec: {containers: [{name: a}]}}", mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "disabled", mesh.RevisionLabel: "default"}}, false, false, false},
		{"opted out", "{metadata: {labels: {sidecar.istio.io/inject: 'false'}}, spec: {containers: [{name: a}]}}", labelled, true, true, false},
		{"of the host", "{metadata: {}, spec: {hostNetwork: true, containers: [{name: a}]}}", labelled, true, true, false},
		{"static", "{metadata: {annotations: {kubernetes.io/config.mirror: x}}, spec: {containers: [{name: a}]}}", labelled, false, false, false},
		{"of another injector", "{metadata: {}, spec: {containers: [{name: a}, {name: istio-proxy}]}}", labelled, false, false, false},
		{"of another revision's injector", `{metadata: {annotations: {istio.io/rev: canary, sidecar.istio.io/status: '{"containers":["istio-proxy"],"hash":"0"}'}}, spec: {containers: [{name: a}, {name: istio-proxy}]}}`,
			mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.RevisionLabel: "canary"}}, false, false, false},
		{"of another configuration", `{metadata: {annotations: {sidecar.istio.io/status: '{"containers":["istio-proxy"],"hash":"0"}'}}, spec: {containers: [{name: a}, {name: istio-proxy}]}}`, labelled, false, false, true},
	} {
		if got := Audit(pod(t, c.pod), c.ns, s); (got.LeftOut != "") != c.leftOut || got.Meant != c.meant || got.Drifted != c.drifted {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
