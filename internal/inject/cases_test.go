package inject

import (
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

var update = flag.Bool("update", false, "rewrite the want sections of testdata/cases")

// A case is a txtar file: why it exists, pod.yaml, perhaps namespace (default:
// shop) and settings.yaml (fields of Options), and what comes of it: "skipped:"
// with the reason, "error:" with the message, or the injected pod. In want.yaml
// fields of the sidecar that are as in plain.txtar are left out, and the hash of
// the default settings reads HASH; want-full.yaml has everything.
type testCase struct {
	name, comment string
	archive       *txtar.Archive
	namespace     string
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
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := testCase{name: path, comment: string(archive.Comment), archive: archive, namespace: "shop"}
		options := defaultOptions()
		for _, f := range archive.Files {
			switch f.Name {
			case "pod.yaml":
				c.pod = toJSON(t, f.Data)
			case "namespace":
				c.namespace = strings.TrimSpace(string(f.Data))
			case "settings.yaml":
				if err := yaml.UnmarshalStrict(f.Data, &options); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
			case "want", "want.yaml", "want-full.yaml":
			default:
				t.Fatalf("%s: unknown section %s", path, f.Name)
			}
		}
		if c.settings, err = NewSettings(options); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, c)
	}
	return all
}

func defaultOptions() Options {
	return Options{Image: "garrison/proxy:test", TrustDomain: identity.DefaultTrustDomain}
}

func toJSON(t testing.TB, raw []byte) []byte {
	t.Helper()
	converted, err := yaml.YAMLToJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	return converted
}

// inject does what Injector does, and applies the patch.
func (c testCase) inject(pod []byte) (injected []byte, ops []Operation, skipped Reason, err error) {
	p, err := ParsePod(pod)
	if err != nil {
		return nil, nil, "", err
	}
	d, err := Decide(p, c.namespace)
	if err != nil || !d.Inject {
		return nil, nil, d.Reason, err
	}
	if ops, err = Edit(p, c.settings); err != nil {
		return nil, nil, "", err
	}
	injected, err = apply(pod, ops)
	return injected, ops, "", err
}

// apply uses an implementation of JSON patch that is not ours.
func apply(doc []byte, ops []Operation) ([]byte, error) {
	raw, err := Patch(ops)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		return nil, err
	}
	return patch.Apply(doc)
}

func TestCases(t *testing.T) {
	for _, c := range cases(t) {
		t.Run(strings.TrimSuffix(filepath.Base(c.name), ".txtar"), func(t *testing.T) {
			if len(strings.TrimSpace(c.comment)) < 20 {
				t.Error("the comment does not say why this case exists")
			}
			i := slices.IndexFunc(c.archive.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want") })
			if i < 0 {
				t.Fatal("no want section")
			}
			got := c.outcome(t, c.archive.Files[i].Name)
			if *update {
				c.archive.Files[i].Data = []byte(got)
				if err := os.WriteFile(c.name, txtar.Format(c.archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(c.archive.Files[i].Data), got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func (c testCase) outcome(t *testing.T, section string) string {
	injected, _, skipped, err := c.inject(c.pod)
	switch {
	case err != nil:
		return "error: " + err.Error() + "\n"
	case skipped != "":
		return "skipped: " + string(skipped) + "\n"
	case section == "want.yaml":
		injected = abridge(t, injected)
	}
	text, err := yaml.JSONToYAML(injected)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSettings(defaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	if section == "want.yaml" {
		return strings.ReplaceAll(string(text), s.Hash(), "HASH")
	}
	return string(text)
}

// abridge leaves out what the sidecar always has.
func abridge(t *testing.T, pod []byte) []byte {
	t.Helper()
	plain, _, _, err := testCase{namespace: "shop", settings: settings(t)}.inject([]byte(`{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	always, got := object(t, plain), object(t, pod)
	for _, list := range []string{"initContainers", "volumes"} {
		for _, usual := range always["spec"].(map[string]any)[list].([]any) {
			for _, e := range got["spec"].(map[string]any)[list].([]any) {
				if usual, e := usual.(map[string]any), e.(map[string]any); usual["name"] == e["name"] {
					abridgeEntry(usual, e)
				}
			}
		}
	}
	out, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func abridgeEntry(usual, e map[string]any) {
	maps.DeleteFunc(e, func(key string, v any) bool { return key != "name" && reflect.DeepEqual(v, usual[key]) })
	if env, ok := e["env"].([]any); ok {
		e["env"] = slices.DeleteFunc(env, func(v any) bool {
			return slices.ContainsFunc(usual["env"].([]any), func(u any) bool { return reflect.DeepEqual(u, v) })
		})
	}
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
		injected, ops, skipped, err := c.inject(c.pod)
		if err != nil || skipped != "" {
			continue
		}
		injections++
		t.Run(strings.TrimSuffix(filepath.Base(c.name), ".txtar"), func(t *testing.T) {
			t.Run("equal input gives equal bytes", func(t *testing.T) {
				_, again, _, err := c.inject(c.pod)
				if err != nil {
					t.Fatal(err)
				}
				one, _ := Patch(ops)
				two, _ := Patch(again)
				if string(one) != string(two) {
					t.Errorf("%s\n%s", one, two)
				}
			})
			t.Run("injecting twice is injecting once", func(t *testing.T) { c.expectNoMore(t, injected) })
			t.Run("also when another webhook came between", func(t *testing.T) {
				between, err := apply(injected, []Operation{
					{Op: "add", Path: "/spec/containers/0", Value: json.RawMessage(`{"name":"other","image":"other","readinessProbe":{"httpGet":{"port":80}}}`)},
					{Op: "add", Path: "/spec/initContainers/0", Value: json.RawMessage(`{"name":"other-init"}`)},
					{Op: "add", Path: "/metadata/annotations/other", Value: json.RawMessage(`"1"`)},
				})
				if err != nil {
					t.Fatal(err)
				}
				c.expectNoMore(t, between)
			})
			t.Run("the user's containers keep their order", func(t *testing.T) { expectOrder(t, c.pod, injected) })
			t.Run("unknown fields survive", func(t *testing.T) { c.expectUnknownSurvive(t, injected) })
			t.Run("the result is a pod", func(t *testing.T) {
				problems, err := kjson.UnmarshalStrict(injected, new(corev1.Pod))
				before, _ := kjson.UnmarshalStrict(c.pod, new(corev1.Pod))
				if err != nil || len(problems) > len(before) {
					t.Errorf("%v %v", err, problems)
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
	p, err := ParsePod(injected)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := Decide(p, c.namespace); err != nil || d.Reason != AlreadyInjected {
		t.Errorf("Decide = %v, %v", d, err)
	}
	if ops, err := Edit(p, c.settings); err != nil || len(ops) != 0 {
		t.Errorf("Edit = %v, %v; want nothing", ops, err)
	}
}

func expectOrder(t *testing.T, before, after []byte) {
	t.Helper()
	var was, is corev1.Pod
	if err := errors.Join(json.Unmarshal(before, &was), json.Unmarshal(after, &is)); err != nil {
		t.Fatal(err)
	}
	names := func(cs []corev1.Container) (all []string) {
		for _, c := range cs {
			all = append(all, c.Name)
		}
		return all
	}
	if diff := cmp.Diff(names(was.Spec.Containers), names(is.Spec.Containers)); diff != "" {
		t.Error(diff)
	}
	want := append([]string{mesh.InitContainer, mesh.ProxyContainer}, names(was.Spec.InitContainers)...)
	if diff := cmp.Diff(want, names(is.Spec.InitContainers)); diff != "" {
		t.Error(diff)
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
	injected, _, skipped, err := c.inject(raw)
	if err != nil || skipped != "" {
		t.Fatalf("%s %v", skipped, err)
	}
	got := object(t, injected)
	if found := reap(got); found != planted {
		t.Errorf("%d unknown fields planted, %d came through", planted, found)
	}
	if diff := cmp.Diff(object(t, plain), got); diff != "" {
		t.Errorf("unknown fields change what is injected: %s", diff)
	}
}

// plant puts a field that no build knows into every object but those whose keys
// are data, and tcpSocket, which is replaced as a whole.
func plant(v any) (n int) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += plant(e)
		}
	case map[string]any:
		for key, e := range v {
			if !slices.Contains([]string{"labels", "annotations", "requests", "limits", "tcpSocket", "securityContext"}, key) {
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

// FuzzEdit: whatever the pod, the patch applies and a second injection is empty.
func FuzzEdit(f *testing.F) {
	for _, c := range cases(f) {
		f.Add(c.pod)
	}
	f.Add([]byte(`{"metadata":{"labels":null},"spec":{"containers":[null],"initContainers":[null],"volumes":null}}`))
	s := settings(f)
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
		ops, err := Edit(p, s)
		if err != nil || len(ops) == 0 {
			return
		}
		patched, err := apply(raw, ops)
		if err != nil {
			t.Fatalf("%v\n%s\n%v", err, raw, ops)
		}
		p, err = ParsePod(patched)
		if err != nil {
			t.Fatalf("%v\n%s", err, patched)
		}
		if ops, err := Edit(p, s); err != nil || len(ops) != 0 {
			t.Errorf("second injection: %v, %v\n%s", ops, err, raw)
		}
	})
}
