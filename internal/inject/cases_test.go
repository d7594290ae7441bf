package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

var update = flag.Bool("update", false, "rewrite the want sections of testdata/cases")

// A case is a txtar file: why it exists, pod.yaml, perhaps namespace.yaml (default:
// shop), settings.yaml (fields of Options), overlays.yaml (names to patches), nodes.yaml
// (those below NativeMinor) and path (of the webhook), and what comes of it: "skipped:"
// with the reason, "error:" with the message, or the injected pod and, if there are any,
// its warnings and holes. In want.yaml fields of the sidecar that are as in plain.txtar
// are left out, and the hash of the default settings reads HASH; want-full.yaml has
// everything. Some have the patch besides, as it is sent but for its line breaks.
type testCase struct {
	name, comment string
	archive       *txtar.Archive
	at            Situation
	pod           []byte // JSON
	settings      Settings
}

func cases(t testing.TB) []testCase {
	t.Helper()
	paths, err := filepath.Glob("testdata/cases/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	var all []testCase
	for _, path := range paths {
		all = append(all, readCase(t, path))
	}
	return all
}

func readCase(t testing.TB, path string) testCase {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := testCase{name: path, comment: string(archive.Comment), archive: archive}
	c.at.Namespace.Name = "shop"
	options, overlays := defaultOptions(), Overlays{}
	for _, f := range archive.Files {
		var err error
		switch f.Name {
		case "pod.yaml":
			c.pod = toJSON(t, f.Data)
		case "namespace.yaml":
			err = yaml.UnmarshalStrict(f.Data, &c.at.Namespace)
		case "nodes.yaml":
			err = yaml.UnmarshalStrict(f.Data, &c.at.Older)
		case "path":
			c.at.Variables, err = PathVariables(strings.TrimSpace(string(f.Data)))
		case "settings.yaml":
			err = yaml.UnmarshalStrict(f.Data, &options)
		case "overlays.yaml":
			var data map[string]string
			if err = yaml.UnmarshalStrict(f.Data, &data); err == nil {
				overlays, err = ParseOverlays(data)
			}
		case "want", "want.yaml", "want-full.yaml", "want-patch":
		default:
			t.Fatalf("%s: unknown section %s", path, f.Name)
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", path, f.Name, err)
		}
	}
	if c.settings, err = NewSettings(options); err == nil {
		c.settings, err = c.settings.WithOverlays(overlays)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return c
}

func defaultOptions() Options { return Options{Image: "garrison/proxy:test"} }

func toJSON(t testing.TB, raw []byte) []byte {
	t.Helper()
	converted, err := yaml.YAMLToJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	return converted
}

// result is what Injector would make of a pod.
type result struct {
	Injection
	pod      []byte // with the patch applied
	skipped  Reason
	decision Decision
}

// inject does what Injector does, and applies the patch.
func (c testCase) inject(pod []byte) (r result, err error) {
	p, err := ParsePod(pod)
	if err != nil {
		return r, err
	}
	if r.decision, err = Decide(p, c.at.Namespace, c.settings); err != nil {
		return r, err
	}
	if !r.decision.Inject {
		r.skipped = r.decision.Reason
		return r, nil
	}
	if r.Injection, err = Edit(p, c.at, c.settings); err != nil {
		return r, err
	}
	r.Warnings = slices.Concat(r.decision.Warnings, Ignored(p), r.Warnings)
	r.pod, err = Apply(pod, r.Ops)
	return r, err
}

func TestCases(t *testing.T) {
	for _, c := range cases(t) {
		t.Run(strings.TrimSuffix(filepath.Base(c.name), ".txtar"), func(t *testing.T) {
			if len(strings.TrimSpace(c.comment)) < 20 {
				t.Error("the comment does not say why this case exists")
			}
			wants := 0
			for i, f := range c.archive.Files {
				if !strings.HasPrefix(f.Name, "want") {
					continue
				}
				wants++
				got := c.outcome(t, f.Name)
				if (f.Name == "want") != (strings.HasPrefix(got, "error: ") || strings.HasPrefix(got, "skipped: ")) {
					t.Errorf("section %s does not fit: %s", f.Name, got)
				}
				if *update {
					c.archive.Files[i].Data = []byte(got)
				} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
					t.Errorf("%s: -want +got\n%s", f.Name, diff)
				}
			}
			if wants == 0 {
				t.Error("no want section")
			}
			if *update {
				if err := os.WriteFile(c.name, txtar.Format(c.archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func (c testCase) outcome(t *testing.T, section string) string {
	r, err := c.inject(c.pod)
	switch {
	case err != nil:
		return "error: " + err.Error() + "\n"
	case r.skipped != "":
		return "skipped: " + string(r.skipped) + "\n" + lines("warning", r.decision.Warnings)
	case section == "want-patch":
		return patchLines(t, r.Ops)
	case section == "want.yaml":
		r.pod = abridge(t, r.pod)
	}
	text, err := yaml.JSONToYAML(r.pod)
	if err != nil {
		t.Fatal(err)
	}
	var holes []string
	for _, h := range r.Holes {
		holes = append(holes, h.String())
	}
	whole := string(text) + lines("warning", r.Warnings) + lines("hole", holes)
	if section == "want.yaml" {
		return strings.ReplaceAll(whole, settings(t).Hash(), "HASH")
	}
	return whole
}

// patchLines is a patch with each operation on a line of its own.
func patchLines(t *testing.T, ops []Operation) string {
	t.Helper()
	patch, err := Patch(ops)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(patch), `,{"op":`, ",\n"+`{"op":`) + "\n"
}

func lines(what string, all []string) string {
	var b strings.Builder
	for _, one := range all {
		b.WriteString("# " + what + ": " + one + "\n")
	}
	return b.String()
}

func settings(t testing.TB) Settings {
	t.Helper()
	s, err := NewSettings(defaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func object(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestLaws holds over every case that is injected.
func TestLaws(t *testing.T) {
	injections := 0
	for _, c := range cases(t) {
		r, err := c.inject(c.pod)
		if err != nil || r.skipped != "" {
			continue
		}
		injections++
		t.Run(strings.TrimSuffix(filepath.Base(c.name), ".txtar"), func(t *testing.T) {
			t.Run("equal input gives equal bytes", func(t *testing.T) {
				again, err := c.inject(c.pod)
				if err != nil {
					t.Fatal(err)
				}
				one, _ := Patch(r.Ops)
				two, _ := Patch(again.Ops)
				if string(one) != string(two) {
					t.Errorf("%s\n%s", one, two)
				}
			})
			t.Run("the patch names positions in order", func(t *testing.T) { c.expectPositional(t, r.Ops) })
			t.Run("and nothing without need", func(t *testing.T) { c.expectMinimal(t, r) })
			t.Run("injecting twice is injecting once", func(t *testing.T) { c.expectNoMore(t, r.pod) })
			t.Run("and for what another webhook added too", func(t *testing.T) { c.expectNewcomer(t, r.pod) })
			t.Run("another configuration's sidecar is replaced", func(t *testing.T) { c.expectReplaced(t, r) })
			t.Run("taken off, the pod is as before", func(t *testing.T) { c.expectUndone(t, r) })
			t.Run("the user's containers keep their order", func(t *testing.T) { expectOrder(t, c.pod, r.pod) })
			t.Run("unknown fields survive", func(t *testing.T) { c.expectUnknownSurvive(t, r.pod) })
			t.Run("the result is a pod", func(t *testing.T) {
				problems, err := kjson.UnmarshalStrict(r.pod, new(corev1.Pod))
				before, _ := kjson.UnmarshalStrict(c.pod, new(corev1.Pod))
				if err != nil || len(problems) > len(before) {
					t.Errorf("%v %v", err, problems)
				}
			})
			t.Run("it is as the record says", func(t *testing.T) {
				p, err := ParsePod(r.pod)
				if err != nil {
					t.Fatal(err)
				}
				if old, err := Outdated(p, c.at.Namespace, c.settings); old || err != nil {
					t.Errorf("Outdated = %v, %v", old, err)
				}
			})
		})
	}
	if injections < 5 {
		t.Errorf("only %d cases are injected", injections)
	}
}

func (c testCase) expectNoMore(t *testing.T, injected []byte) {
	t.Helper()
	r, err := c.inject(injected)
	if err != nil || len(r.Ops) != 0 || r.skipped != "" {
		t.Errorf("injected again: %v, skipped %q, %v", r.Ops, r.skipped, err)
	}
}

// expectNewcomer puts containers into an injected pod as other webhooks do. Their
// probes are moved then, and nothing else is touched.
func (c testCase) expectNewcomer(t *testing.T, injected []byte) {
	t.Helper()
	between, err := Apply(injected, []Operation{
		{Op: "add", Path: "/spec/containers/0", Value: json.RawMessage(`{"name":"other","image":"other","readinessProbe":{"httpGet":{"port":80}}}`)},
		{Op: "add", Path: "/metadata/annotations/other", Value: json.RawMessage(`"1"`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.inject(between)
	if err != nil {
		t.Fatal(err)
	}
	c.expectNoMore(t, r.pod)
	rewritten := object(t, r.pod)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["readinessProbe"].(map[string]any)["httpGet"].(map[string]any)["path"]
	p, err := ParsePod(c.pod)
	if err != nil {
		t.Fatal(err)
	}
	o, err := parseOptions(p, c.at.Namespace, c.settings)
	if err != nil {
		t.Fatal(err)
	}
	if moved := rewritten == "/app-health/other/readyz"; moved != o.rewriteProbes {
		t.Errorf("the newcomer's probe asks for %v", rewritten)
	}
}

// expectReplaced changes what the record says the sidecar was made of.
func (c testCase) expectReplaced(t *testing.T, r result) {
	t.Helper()
	old := bytes.ReplaceAll(r.pod, []byte(r.Hash), []byte("0123456789abcdef"))
	again, err := c.inject(old)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Ops) == 0 {
		t.Error("no operations")
	}
	c.expectNoMore(t, again.pod)
}

// expectUndone takes the sidecar off. Named ports of probes have become numbers, so
// that pods with probes are compared by what they are injected to; overlays stay where
// they changed what is the user's, and an override's place in its list is not known.
func (c testCase) expectUndone(t *testing.T, r result) {
	t.Helper()
	p, err := ParsePod(r.pod)
	if err != nil {
		t.Fatal(err)
	}
	ops, err := Uninject(p)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := Apply(r.pod, ops)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.inject(bare)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(object(t, r.pod), object(t, again.pod)); diff != "" {
		t.Errorf("injected, taken off and injected: -once +again\n%s", diff)
	}
	changed := bytes.Contains(c.pod, []byte("Probe")) || bytes.Contains(c.pod, []byte("lifecycle")) || bytes.Contains(c.pod, []byte(mesh.Overrides)) || bytes.Contains(r.pod, []byte(mesh.Overrides)) ||
		len(c.settings.overlays.named) > 0 || bytes.Contains(c.pod, []byte("prometheus")) || bytes.Contains(c.pod, []byte(mesh.Status)) || bytes.Contains(c.pod, []byte(`"`+mesh.RevisionLabel+`"`))
	if changed {
		return
	}
	if diff := cmp.Diff(withoutEmpty(object(t, c.pod)), withoutEmpty(object(t, bare))); diff != "" {
		t.Errorf("-before +taken off\n%s", diff)
	}
}

// withoutEmpty drops what is the same to Kubernetes as not being there.
func withoutEmpty(doc map[string]any) map[string]any {
	for _, part := range []string{"metadata", "spec"} {
		m, _ := doc[part].(map[string]any)
		maps.DeleteFunc(m, func(_ string, v any) bool {
			switch v := v.(type) {
			case nil:
				return true
			case map[string]any:
				return len(v) == 0
			case []any:
				return len(v) == 0
			}
			return false
		})
	}
	return doc
}

func expectOrder(t *testing.T, before, after []byte) {
	t.Helper()
	var was, is corev1.Pod
	if err := errors.Join(json.Unmarshal(before, &was), json.Unmarshal(after, &is)); err != nil {
		t.Fatal(err)
	}
	names := func(cs []corev1.Container) (all []string) {
		for _, c := range cs {
			if !own(c.Name) {
				all = append(all, c.Name)
			}
		}
		return all
	}
	for _, lists := range [][2][]corev1.Container{{was.Spec.Containers, is.Spec.Containers}, {was.Spec.InitContainers, is.Spec.InitContainers}} {
		was, is := names(lists[0]), names(lists[1])
		if !slices.Equal(was, is[:min(len(was), len(is))]) { // overlays add behind
			t.Errorf("before %q, after %q", was, is)
		}
	}
}

const unknown = "fieldOfTomorrow"

func (c testCase) expectUnknownSurvive(t *testing.T, plain []byte) {
	t.Helper()
	pod := object(t, c.pod)
	planted := plant(pod)
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.inject(raw)
	if err != nil || r.skipped != "" {
		t.Fatalf("%s %v", r.skipped, err)
	}
	got := object(t, r.pod)
	if found := reap(got); found != planted {
		t.Errorf("%d unknown fields planted, %d came through", planted, found)
	}
	if diff := cmp.Diff(object(t, plain), got); diff != "" {
		t.Errorf("unknown fields change what is injected: %s", diff)
	}
}

// plant puts a field that no build knows into every object but those whose keys
// are data, and tcpSocket and grpc, which are replaced as a whole.
func plant(v any) (n int) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += plant(e)
		}
	case map[string]any:
		if name, _ := v["name"].(string); own(name) {
			return 0 // its fields are merged, and part of what the record is of
		}
		for key, e := range v {
			if !slices.Contains([]string{"labels", "annotations", "requests", "limits", "tcpSocket", "grpc", "securityContext"}, key) {
				n += plant(e)
			}
		}
		v[unknown] = map[string]any{"a": []any{1.0, "b"}}
		n++
	}
	return n
}

func reap(v any) (n int) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += reap(e)
		}
	case map[string]any:
		if _, ok := v[unknown]; ok {
			delete(v, unknown)
			n++
		}
		for _, e := range v {
			n += reap(e)
		}
	}
	return n
}

// FuzzEdit: whatever the pod, the patch applies, a second injection is empty, and the
// sidecar comes off again.
func FuzzEdit(f *testing.F) {
	for _, c := range cases(f) {
		f.Add(c.pod)
	}
	f.Add([]byte(`{"metadata":{"labels":null},"spec":{"containers":[null],"initContainers":[null],"volumes":null}}`))
	s := settings(f)
	at := Situation{Namespace: mesh.Namespace{Name: "shop"}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var doc any
		if json.Unmarshal(raw, &doc) != nil {
			if _, err := ParsePod(raw); err == nil {
				t.Errorf("ParsePod takes %q, which is no JSON", raw)
			}
			return
		}
		raw, err := json.Marshal(doc) // each name once, as the API server sends it
		if err != nil {
			return
		}
		p, err := ParsePod(raw)
		if err != nil {
			return
		}
		once, err := Edit(p, at, s)
		if err != nil || len(once.Ops) == 0 {
			return
		}
		patched, err := Apply(raw, once.Ops)
		if err != nil {
			t.Fatalf("%v\n%s\n%v", err, raw, once.Ops)
		}
		p, err = ParsePod(patched)
		if err != nil {
			t.Fatalf("%v\n%s", err, patched)
		}
		if twice, err := Edit(p, at, s); err != nil || len(twice.Ops) != 0 {
			t.Errorf("second injection: %v, %v\n%s", twice.Ops, err, raw)
		}
		off, err := Uninject(p)
		if err != nil {
			t.Fatalf("%v\n%s", err, patched)
		}
		if _, err := Apply(patched, off); err != nil {
			t.Errorf("%v\n%s", err, patched)
		}
	})
}
