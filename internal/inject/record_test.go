package inject

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
		"before our programs":  {"add", proxy + "/volumeMounts/-", `{"name":"x","mountPath":"/etc/ld.so.preload","subPath":"x"}`, `container istio-proxy: volumeMounts: "/etc/ld.so.preload"`},
		"no certificate there": {"remove", proxy + "/volumeMounts/1", ``, "container istio-proxy: volumeMounts"},
		"a hook":               {"add", proxy + "/lifecycle", `{"postStart":{"exec":{"command":["kill","1"]}}}`, "container istio-proxy: lifecycle"},
		"another volume":       {"replace", "/spec/volumes/3", `{"name":"istiod-ca-cert","configMap":{"name":"mine"}}`, "spec.volumes[istiod-ca-cert]"},
		"not restarted":        {"remove", proxy + "/restartPolicy", ``, "container istio-proxy: restartPolicy"},
		"a command as a probe": {"add", proxy + "/livenessProbe", `{"exec":{"command":["envoy"]}}`, "container istio-proxy: livenessProbe"},
		"another probe":        {"replace", proxy + "/startupProbe", `{"exec":{"command":["envoy"]}}`, "container istio-proxy: startupProbe"},
		"a part of a volume":   {"add", proxy + "/volumeMounts/3/subPath", `"x"`, "container istio-proxy: volumeMounts"},
		"another root":         {"add", "/spec/volumes/3/configMap/items", `[{"key":"mine","path":"root-cert.pem"}]`, "spec.volumes[istiod-ca-cert]"},
	} {
		op := Operation{Op: change.op, Path: change.path}
		if change.value != "" {
			op.Value = json.RawMessage(change.value)
		}
		forged, err := Apply(honest.pod, []Operation{op})
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
		changed, err := Apply(honest.pod, []Operation{change})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r, err := c.inject(changed); err != nil || len(r.Ops) != 0 {
			t.Errorf("%s: %v, %v", name, r.Ops, err)
		}
	}
}

// TestRecordOfOverlays: a container that an overlay could have added is no less the pod's
// own, and a volume is what its author was granted.
func TestRecordOfOverlays(t *testing.T) {
	overlays, err := ParseOverlays(map[string]string{"logs": `{spec: {containers: [{name: logs, image: logs, lifecycle: {preStop: {httpGet: {port: 80}}}, env: [{name: EMPTY, value: ""}]}]}}`})
	if err != nil {
		t.Fatal(err)
	}
	s, err := settings(t).WithOverlays(overlays)
	if err != nil {
		t.Fatal(err)
	}
	c := testCase{settings: s}
	inject := func(annotations string) []byte {
		t.Helper()
		r, err := c.inject([]byte(`{"metadata":{"name":"a","annotations":` + annotations + `},"spec":{"containers":[{"name":"a"}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		return r.pod
	}
	plain := inject(`{"x":""}`)
	chosen := inject(`{"inject.istio.io/templates":"sidecar,logs"}`)
	volume := inject(`{"sidecar.istio.io/userVolume":"{\"v\":{\"emptyDir\":{}}}"}`)
	at := func(pod []byte, list, name string) string {
		i := slices.Index(names(object(t, pod), list), name)
		return "/spec/" + list + "/" + strconv.Itoa(i)
	}
	status := func(pod []byte, old, new string) Operation {
		p, err := ParsePod(pod)
		if err != nil {
			t.Fatal(err)
		}
		value := strings.Replace(p.meta.Annotations[mesh.Status], old, new, 1)
		return Operation{Op: "replace", Path: "/metadata/annotations" + pointer(mesh.Status), Value: json.RawMessage(jsonString(value))}
	}
	for name, change := range map[string]struct {
		pod  []byte
		ops  []Operation
		says string // "": it is as injection makes it
	}{
		"not chosen": {plain, []Operation{
			{Op: "add", Path: "/spec/containers/-", Value: json.RawMessage(`{"name":"logs","securityContext":{"runAsUser":1337}}`)},
			status(plain, `"containers":null`, `"containers":["logs"]`),
		}, `container "logs"`},
		"another user": {chosen, []Operation{
			{Op: "add", Path: at(chosen, "containers", "logs") + "/securityContext", Value: json.RawMessage(`{"runAsUser":1337}`)},
		}, "container logs: securityContext"},
		"another kind of volume": {volume, []Operation{
			{Op: "replace", Path: at(volume, "volumes", "v"), Value: json.RawMessage(`{"name":"v","hostPath":{"path":"/"}}`)},
		}, "spec.volumes[v]"},
		"the API server's defaults": {chosen, []Operation{
			{Op: "add", Path: at(chosen, "containers", "logs") + "/lifecycle/preStop/httpGet/scheme", Value: json.RawMessage(`"HTTP"`)},
			{Op: "remove", Path: at(chosen, "containers", "logs") + "/env/0/value"},
		}, ""},
	} {
		forged, err := Apply(change.pod, change.ops)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r, err := c.inject(forged)
		refusal, _ := errors.AsType[*Refusal](err)
		switch {
		case change.says == "" && (err != nil || len(r.Ops) > 0):
			t.Errorf("%s: %v, %v", name, r.Ops, err)
		case change.says != "" && (refusal == nil || refusal.Reason != FalseStatus || !strings.Contains(err.Error(), change.says)):
			t.Errorf("%s: %v, want %s", name, err, change.says)
		}
	}
}

// TestWhatOthersAdd to the sidecar is a hole, and in a strict namespace must be named
// like an override: nobody can tell another webhook from the pod's author.
func TestWhatOthersAdd(t *testing.T) {
	o := defaultOptions()
	o.Trust = []TrustRule{{Namespaces: metav1.LabelSelector{MatchLabels: map[string]string{"trace": "yes"}}, Overrides: &[]string{"istio-proxy.env", "istio-proxy.stdin"}}}
	s, err := NewSettings(o)
	if err != nil {
		t.Fatal(err)
	}
	normal := mesh.Namespace{Name: "shop"}
	strict := mesh.Namespace{Name: "vault", Labels: map[string]string{mesh.CaptureLabel: mesh.CaptureStrict}}
	traced := mesh.Namespace{Name: "vault", Labels: map[string]string{mesh.CaptureLabel: mesh.CaptureStrict, "trace": "yes"}}
	for _, change := range []struct{ path, value, field string }{
		{"/env/-", `{"name":"LD_PRELOAD","value":"/other/x.so"}`, "env"},
		{"/volumeMounts/-", `{"name":"x","mountPath":"/other"}`, "volumeMounts"},
		{"/stdin", `true`, "stdin"},
	} {
		for _, ns := range []mesh.Namespace{normal, strict, traced} {
			c := testCase{settings: s, at: Situation{Namespace: ns}}
			honest, err := c.inject([]byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`))
			if err != nil {
				t.Fatal(err)
			}
			changed, err := Apply(honest.pod, []Operation{{Op: "add", Path: "/spec/initContainers/1" + change.path, Value: json.RawMessage(change.value)}})
			if err != nil {
				t.Fatal(err)
			}
			r, err := c.inject(changed)
			refusal, _ := errors.AsType[*Refusal](err)
			if len(ns.Labels) == 0 || len(ns.Labels) == 2 && change.field != "volumeMounts" {
				if err != nil || len(r.Holes) != 1 || !strings.Contains(r.Holes[0].What, change.field) {
					t.Errorf("%s in %v: %v, holes %v", change.field, ns.Labels, err, r.Holes)
				}
			} else if refusal == nil || !strings.Contains(refusal.Field, "container istio-proxy: "+change.field) {
				t.Errorf("%s in %v: %v", change.field, ns.Labels, err)
			}
		}
	}
}

// TestCaptureComesFirst: an init container that another webhook, or the author of a forged
// record, puts before the capture does not stay there.
func TestCaptureComesFirst(t *testing.T) {
	for name, c := range map[string]testCase{
		"native":  {settings: settings(t)},
		"classic": {settings: settings(t), at: Situation{Older: []mesh.Node{{Name: "old", Minor: 30}}}},
	} {
		honest, err := c.inject([]byte(`{"metadata":{"name":"a"},"spec":{"initContainers":[{"name":"own"}],"containers":[{"name":"a"}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]string{"native": "0", "classic": "-"}[name]
		changed, err := Apply(honest.pod, []Operation{{Op: "add", Path: "/spec/initContainers/" + at, Value: json.RawMessage(`{"name":"other"}`)}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.inject(changed)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string][]string{
			"native":  {"istio-init", "istio-proxy", "other", "own"},
			"classic": {"own", "other", "istio-init"},
		}[name]
		if got := names(object(t, r.pod), "initContainers"); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		c.expectNoMore(t, r.pod)
	}
}

// TestForgedListsAreBounded: what injection never writes so long is not worked through,
// at a cost of its square.
func TestForgedListsAreBounded(t *testing.T) {
	repeat := func(element string, n int) string { return strings.TrimSuffix(strings.Repeat(element+",", n), ",") }
	forged := func(status, overrides string) string {
		return `{"metadata":{"annotations":{"sidecar.istio.io/status":` + jsonString(status) + `,"proxy.istio.io/overrides":` + jsonString(overrides) + `}},"spec":{"containers":[{"name":"a"}]}}`
	}
	override := func(n int) string {
		return `{"metadata":{},"spec":{"containers":[{"name":"a"},{"name":"istio-proxy","image":"auto","env":[` + repeat(`{"name":"A"}`, n) + `]}]}}`
	}
	for _, c := range []struct{ name, pod, says string }{
		{"volumes of a record", forged(`{"hash":"0","volumes":[`+repeat(`"v"`, maxRecorded+1)+`]}`, "{}"), mesh.Status},
		{"labels of a record", forged(`{"hash":"0","labels":[`+repeat(`"v"`, maxRecorded+1)+`]}`, "{}"), mesh.Status},
		{"as many as may be", forged(`{"hash":"0","volumes":[`+repeat(`"v"`, maxRecorded)+`]}`, "{}"), ""},
		{"overrides", forged(`{"hash":"0"}`, `{"containers":[`+repeat(`{"name":"b"}`, 9)+`],"initContainers":[`+repeat(`{"name":"b"}`, 8)+`]}`), mesh.Overrides},
		{"variables of an override", override(maxListed + 1), "container istio-proxy: env"},
		{"as many variables", override(maxListed), ""},
	} {
		_, err := testCase{settings: settings(t)}.inject([]byte(c.pod))
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}

// TestCopiedToAnotherNetwork: what the webhook's path and the pod's labels say of cluster
// and network is no part of the hash, and a manifest of a running pod may come from
// another one. It gets the sidecar of where it is.
func TestCopiedToAnotherNetwork(t *testing.T) {
	there := testCase{settings: settings(t), at: Situation{Variables: []Variable{{mesh.ClusterEnv, "there"}, {mesh.NetworkEnv, "n1"}}}}
	here := testCase{settings: settings(t), at: Situation{Variables: []Variable{{mesh.ClusterEnv, "here"}}}}
	running, err := there.inject([]byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := here.inject(running.pod)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ParsePod(r.pod)
	if err != nil {
		t.Fatal(err)
	}
	proxy, _, err := p.proxy()
	if err != nil {
		t.Fatal(err)
	}
	cluster, _ := proxy.variable(mesh.ClusterEnv)
	network, _ := proxy.variable(mesh.NetworkEnv)
	if cluster != "here" || network != "" {
		t.Errorf("cluster %q, network %q", cluster, network)
	}
	here.expectNoMore(t, r.pod)
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
		if got := Audit(pod(t, c.pod), c.ns, s, ShownBy(mesh.DefaultRevision, nil)); (got.LeftOut != "") != c.leftOut || got.Meant != c.meant || got.Drifted != c.drifted {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestAuditByWebhooks: a namespace asks for the sidecars of a revision by whatever name a
// webhook of that revision goes by, and by none that another has taken over.
func TestAuditByWebhooks(t *testing.T) {
	of := func(label, value string) mesh.Namespace {
		return mesh.Namespace{Name: "shop", Labels: map[string]string{label: value}}
	}
	const bare = "{metadata: {}, spec: {containers: [{name: a}]}}"
	injectedBy := func(revision string) string {
		return `{metadata: {annotations: {istio.io/rev: ` + revision + `, sidecar.istio.io/status: '{"containers":["istio-proxy"],"hash":"0"}'}},
spec: {containers: [{name: a}, {name: istio-proxy}]}}`
	}
	handedOver := []Webhook{{Neutral: true}}
	for name, c := range map[string]struct {
		revision         string
		there            []Webhook
		ns               mesh.Namespace
		pod              string
		leftOut, drifted bool
	}{
		"no webhook is there":             {"canary", nil, of(mesh.RevisionLabel, "canary"), bare, true, false},
		"nor a tag":                       {"canary", nil, of(mesh.RevisionLabel, "prod"), bare, false, false},
		"by a tag":                        {"canary", []Webhook{{Revision: "canary", Tag: "prod"}}, of(mesh.RevisionLabel, "prod"), bare, true, false},
		"beside a tag":                    {"canary", []Webhook{{Revision: "canary", Tag: "prod"}}, of(mesh.RevisionLabel, "canary"), bare, true, false},
		"by a tag of the default's":       {"default", []Webhook{{}, {Tag: "prod"}}, of(mesh.RevisionLabel, "prod"), bare, true, false},
		"by the default's tag":            {"canary", []Webhook{{Revision: "canary", Tag: "default"}}, of(mesh.InjectionLabel, "enabled"), bare, true, false},
		"unlabelled":                      {"default", []Webhook{{NamespacesByDefault: true}}, mesh.Namespace{Name: "shop"}, bare, true, false},
		"unlabelled, and not asked for":   {"default", []Webhook{{}}, mesh.Namespace{Name: "shop"}, bare, false, false},
		"handed over":                     {"default", handedOver, of(mesh.InjectionLabel, "enabled"), bare, false, false},
		"handed over, and made since":     {"default", handedOver, of(mesh.InjectionLabel, "enabled"), injectedBy("canary"), false, false},
		"taken over, made before":         {"canary", []Webhook{{Revision: "canary", Tag: "prod"}}, of(mesh.RevisionLabel, "prod"), injectedBy("default"), false, true},
		"a tag that is another's":         {"default", []Webhook{{}}, of(mesh.RevisionLabel, "prod"), injectedBy("canary"), false, false},
		"named as no webhook can be":      {"Canary.1", nil, of(mesh.RevisionLabel, "Canary.1"), bare, false, false},
		"of the system, whatever it says": {"default", []Webhook{{}}, mesh.Namespace{Name: "kube-system", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}, bare, false, false},
	} {
		o := defaultOptions()
		o.Revision = c.revision
		s, err := NewSettings(o)
		if err != nil {
			t.Fatal(err)
		}
		var there webhooks
		for _, w := range c.there {
			there = append(there, configuration(t, w))
		}
		got := Audit(pod(t, c.pod), c.ns, s, ShownBy(c.revision, there))
		if (got.LeftOut != "") != c.leftOut || got.Drifted != c.drifted || got.Meant {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
