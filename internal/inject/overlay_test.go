package inject

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestParseOverlaysRefuses(t *testing.T) {
	for name, c := range map[string]struct{ key, text, says string }{
		"a field that is none":    {"a", "spec: {contaners: []}", `unknown field "spec.contaners"`},
		"another type":            {"a", "spec: {containers: 1}", "containers"},
		"no YAML":                 {"a", "{", "yaml"},
		"nothing":                 {"a", "kind: Pod", "is empty"},
		"the built-in name":       {"sidecar.yaml", "spec: {}", "built-in"},
		"no name":                 {"A_b", "spec: {}", "name: "},
		"the pod's own name":      {"a", "metadata: {name: x}", "metadata.name"},
		"a status":                {"a", "status: {phase: Running}", "status"},
		"a key that stands twice": {"a", "spec: {priority: 1}\nspec: {priority: 2}", "already set"},
	} {
		if _, err := ParseOverlays(map[string]string{c.key: c.text, "good": "spec: {priority: 1}"}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s", name, err, c.says)
		}
	}
	if _, err := ParseOverlays(map[string]string{"a": "spec: {priority: 1}", "a.yaml": "spec: {priority: 2}"}); err == nil {
		t.Error("one name twice is taken")
	}
	o, err := ParseOverlays(map[string]string{"a": "spec: {containers: [{name: web, $patch: delete}]}"})
	if err != nil || len(o.Names()) != 1 {
		t.Errorf("a directive of the merge: %v", err)
	}
}

// TestOverlaysAreTried: one that takes the sidecar out again is not offered.
func TestOverlaysAreTried(t *testing.T) {
	for _, text := range []string{
		"spec: {initContainers: [{name: istio-proxy, $patch: delete}]}",
		"spec: {containers: [{name: istio-init, $patch: delete}]}",
	} {
		o, err := ParseOverlays(map[string]string{"bad": text})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := settings(t).WithOverlays(o); err == nil || !strings.Contains(err.Error(), "overlay bad") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestReloadKeepsTheLastGood overlays, and says so.
func TestReloadKeepsTheLastGood(t *testing.T) {
	var log strings.Builder
	metrics := prometheus.NewRegistry()
	i := newInjector(settings(t), slog.New(slog.NewTextHandler(&log, nil)), metrics)
	expect := func(names, gauge string) {
		t.Helper()
		if got := strings.Join(i.Settings().Overlays().Names(), " "); got != names {
			t.Errorf("in force: %q, want %q", got, names)
		}
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(
			"# HELP injector_overlays_last_reload_successful Whether the overlays in force are those of the ConfigMap: 1, or 0 where the last ones were refused.\n"+
				"# TYPE injector_overlays_last_reload_successful gauge\ninjector_overlays_last_reload_successful "+gauge+"\n",
		), "injector_overlays_last_reload_successful"); err != nil {
			t.Error(err)
		}
	}
	expect("", "1")
	i.SetOverlays(t.Context(), map[string]string{"debug": "spec: {priority: 1}"})
	expect("debug", "1")
	i.SetOverlays(t.Context(), map[string]string{"debug": "spec: {priority: 1}", "worse": "spec: {priorty: 1}"})
	expect("debug", "0")
	if !strings.Contains(log.String(), "overlays refused") || !strings.Contains(log.String(), "spec.priorty") {
		t.Errorf("log: %s", &log)
	}
	i.SetOverlays(t.Context(), nil)
	expect("", "1")
}

// TestOverlaysOverLongLists: merging costs the square of a list's length, so no stranger
// chooses how long that is.
func TestOverlaysOverLongLists(t *testing.T) {
	overlays, err := ParseOverlays(map[string]string{"x": "{metadata: {labels: {x: z}}}"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := settings(t).WithOverlays(overlays)
	if err != nil {
		t.Fatal(err)
	}
	for n, says := range map[int]string{maxMerged: "", maxMerged + 1: "spec.containers[0].env: a list of more than"} {
		p := pod(t, `{metadata: {annotations: {inject.istio.io/templates: "sidecar,x"}}, spec: {containers: [{name: a, env: [`+strings.Repeat("{name: A},", n)+`]}]}}`)
		if _, err := Edit(p, Situation{}, s); (err != nil) != (says != "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%d variables: %v, want %q", n, err, says)
		}
	}
}
