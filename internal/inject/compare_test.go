package inject

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Every case that is injected is what today's configuration makes, and still is when the
// API server and others have added to it.
func TestCompareFindsNothing(t *testing.T) {
	for _, c := range cases(t) {
		r, err := c.inject(c.pod)
		if err != nil || r.skipped != "" {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(c.name), ".txtar"), func(t *testing.T) {
			for name, pod := range map[string][]byte{"as injected": r.pod, "as it runs": lived(t, r.pod)} {
				if changes, err := Compare(pod, c.at, c.settings); err != nil || len(changes) > 0 {
					t.Errorf("%s: %v, %v", name, changes, err)
				}
			}
		})
	}
}

// lived adds to a pod what coproxy to it in a cluster.
func lived(t *testing.T, pod []byte) []byte {
	t.Helper()
	doc := object(t, pod)
	spec := doc["spec"].(map[string]any)
	for _, list := range []string{"initContainers", "containers"} {
		containers, _ := spec[list].([]any)
		for _, one := range containers {
			c := one.(map[string]any)
			c["terminationMessagePath"] = "/dev/termination-log"
			if c["resources"] == nil {
				c["resources"] = map[string]any{}
			}
			mounts, _ := c["volumeMounts"].([]any)
			c["volumeMounts"] = append(mounts, map[string]any{"name": "other", "mountPath": "/var/other"})
			env, _ := c["env"].([]any)
			for _, v := range env {
				if from, ok := v.(map[string]any)["valueFrom"].(map[string]any); ok && from["fieldRef"] != nil {
					from["fieldRef"].(map[string]any)["apiVersion"] = "v1"
				}
			}
			c["env"] = append(env, map[string]any{"name": "OTEL", "value": "1"})
			for _, probe := range []string{"readinessProbe", "startupProbe"} {
				if p, ok := c[probe].(map[string]any); ok {
					p["successThreshold"] = 1
				}
			}
		}
	}
	for _, v := range spec["volumes"].([]any) {
		if p, ok := v.(map[string]any)["projected"].(map[string]any); ok {
			p["defaultMode"] = 420
		}
	}
	spec["volumes"] = append(spec["volumes"].([]any), map[string]any{"name": "other", "emptyDir": map[string]any{}})
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// What differs is named with what is there and what would be, and the author's own
// values are not shown.
func TestCompareNamesWhatDiffers(t *testing.T) {
	const (
		pod   = `{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","env":[{"name":"PASSWORD","value":"secret"}]}]}}`
		proxy = "spec.initContainers[istio-proxy]"
	)
	custom := strings.Replace(pod, `"spec":{`, `"spec":{"initContainers":[{"name":"istio-proxy","image":"auto","env":[{"name":"KEY","value":"secret"}]}],`, 1)
	annotated := func(name, value string) string {
		return strings.Replace(pod, `"name":"a"}`, `"name":"a","annotations":{"`+name+`":"`+value+`"}}`, 1)
	}
	same := func(o Options) Options { return o }
	cases := map[string]struct {
		pod    string
		then   func(Options) Options // what it was made of
		now    func(Options) Options
		change []Operation // between the two
		want   string
	}{
		"image": {pod: pod, then: same, now: func(o Options) Options { o.Image = "garrison/proxy:new"; return o },
			want: "spec.initContainers[istio-init].image: \"garrison/proxy:test\" → \"garrison/proxy:new\"\n" +
				proxy + ".image: \"garrison/proxy:test\" → \"garrison/proxy:new\""},
		"revision and authority": {pod: pod, then: same, now: func(o Options) Options { o.Revision, o.CAAddress = "r2", "ca:1"; return o },
			want: "metadata.annotations[istio.io/rev]: \"default\" → \"r2\"\n" +
				proxy + `.env[CA_ADDR]: "istio-citadel.istio-system.svc:8060" → "ca:1"`},
		"resources": {pod: pod, then: same,
			now: func(o Options) Options { o.Defaults = map[string]string{mesh.ProxyMemory: "64Mi"}; return o },
			want: `spec.initContainers[istio-init].resources.requests.memory: "128Mi" → "64Mi"` + "\n" +
				proxy + `.resources.requests.memory: "128Mi" → "64Mi"`},
		"no more capture": {pod: pod, then: same,
			now:  func(o Options) Options { o.Defaults = map[string]string{mesh.InterceptionMode: "NONE"}; return o },
			want: `spec.initContainers[istio-init]: "present" → absent`},
		"capture again": {pod: pod, now: same,
			then: func(o Options) Options { o.Defaults = map[string]string{mesh.InterceptionMode: "NONE"}; return o },
			want: `spec.initContainers[istio-init]: absent → "present"`},
		"people may look no more": {pod: pod, now: same, then: func(o Options) Options { o.Privileged = true; return o },
			want: `spec.initContainers[istio-init].image: "garrison/proxy-debug:test" → "garrison/proxy:test"` + "\n" +
				proxy + `.image: "garrison/proxy-debug:test" → "garrison/proxy:test"` + "\n" +
				proxy + ".securityContext.allowPrivilegeEscalation: true → false\n" +
				proxy + `.securityContext.capabilities.drop: absent → ["ALL"]` + "\n" +
				proxy + `.securityContext.capabilities.add: ["NET_ADMIN","NET_RAW"] → absent` + "\n" +
				proxy + ".securityContext.readOnlyRootFilesystem: false → true"},
		"probe delay": {pod: pod, now: same,
			then: func(o Options) Options { o.Defaults = map[string]string{mesh.ReadinessInitialDelay: "5"}; return o },
			want: proxy + ".readinessProbe.initialDelaySeconds: 5 → absent"},
		"metrics are merged no more": {pod: annotated(mesh.PrometheusScrape, "true"), then: same,
			now:  func(o Options) Options { o.Defaults = map[string]string{mesh.MergeMetrics: "false"}; return o },
			want: proxy + `.env[ISTIO_PROMETHEUS_ANNOTATIONS]: "{\"scrape\":\"true\"}" → absent`},
		"pull secrets": {pod: pod, then: func(o Options) Options { o.ImagePullSecrets = []string{"old"}; return o },
			now:  func(o Options) Options { o.ImagePullSecrets = []string{"new"}; return o },
			want: "spec.imagePullSecrets[new]: absent → \"present\"\nspec.imagePullSecrets[old]: \"present\" → absent"},
		"a variable of the author's own": {pod: custom, then: same, now: same,
			change: []Operation{{Op: "replace", Path: "/spec/initContainers/1/env/7/value", Value: json.RawMessage(`"other"`)}},
			want:   proxy + ".env[KEY]: differs"},
		"a quantity in other words": {pod: strings.Replace(custom, `"image":"auto"`, `"image":"auto","resources":{"limits":{"cpu":"0.5"}}`, 1), then: same, now: same,
			change: []Operation{{Op: "replace", Path: "/spec/initContainers/1/resources/limits/cpu", Value: json.RawMessage(`"500m"`)}}},
		"a mount gone": {pod: pod, then: same, now: same,
			change: []Operation{{Op: "remove", Path: "/spec/initContainers/1/volumeMounts/1"}},
			want:   proxy + `.volumeMounts[/etc/certs]: absent → {"mountPath":"/etc/certs","name":"istio-certs"}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			then := testCase{settings: made(t, c.then(defaultOptions()))}
			then.at.Namespace.Name = "shop"
			r, err := then.inject([]byte(c.pod))
			if err != nil {
				t.Fatal(err)
			}
			if r.pod, err = Apply(r.pod, c.change); err != nil {
				t.Fatal(err)
			}
			changes, err := Compare(r.pod, then.at, made(t, c.now(defaultOptions())))
			var lines []string
			for _, change := range changes {
				lines = append(lines, change.String())
			}
			if diff := cmp.Diff(c.want, strings.Join(lines, "\n")); err != nil || diff != "" {
				t.Errorf("%v\n-want +got\n%s", err, diff)
			}
			if raw, _ := json.Marshal(changes); strings.Contains(string(raw), "secret") {
				t.Errorf("shows what is nobody's business: %s", raw)
			}
		})
	}
}

func made(t *testing.T, o Options) Settings {
	t.Helper()
	s, err := NewSettings(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The kind of container follows from nodes, which come and go.
func TestCompareKeepsTheKind(t *testing.T) {
	c := testCase{settings: settings(t)}
	c.at.Older = []mesh.Node{{Name: "old", Minor: 30}}
	r, err := c.inject([]byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`))
	if err != nil || r.Native {
		t.Fatalf("native %v, %v", r.Native, err)
	}
	if changes, err := Compare(r.pod, Situation{}, c.settings); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestCompareRefuses(t *testing.T) {
	broken := `{"metadata":{"annotations":{"sidecar.istio.io/status":"{"}},"spec":{"containers":[{"name":"a"}]}}`
	for _, pod := range []string{`{`, broken, strings.Replace(broken, `"{"`, `"{}"`, 1)} {
		if changes, err := Compare([]byte(pod), Situation{}, settings(t)); err == nil {
			t.Errorf("%s: %v", pod, changes)
		}
	}
	for _, pod := range []string{`{`, broken, `{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`} {
		if bare, err := Strip([]byte(pod)); err == nil {
			t.Errorf("%s: %s", pod, bare)
		}
	}
}

// Templates are listed with the aliases written out.
func TestExplainTemplates(t *testing.T) {
	overlays, err := ParseOverlays(map[string]string{"debug": `{metadata: {labels: {a: b}}}`, "log": `{metadata: {labels: {c: d}}}`})
	if err != nil {
		t.Fatal(err)
	}
	o := defaultOptions()
	o.TemplateAliases = map[string][]string{"full": {"sidecar", "log", "debug"}}
	s, err := made(t, o).WithOverlays(overlays)
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{"": "sidecar", "sidecar,debug": "sidecar debug", "full": "sidecar log debug", "nonsense": ""} {
		pod := `{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`
		if value != "" {
			pod = `{"metadata":{"annotations":{"` + mesh.Templates + `":"` + value + `"}},"spec":{"containers":[{"name":"a"}]}}`
		}
		p, err := ParsePod([]byte(pod))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(Explain(p, Situation{}, s).Templates, " "); got != want {
			t.Errorf("%s: %q, want %q", value, got, want)
		}
	}
}
