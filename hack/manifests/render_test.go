package main

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"sigs.k8s.io/yaml"
)

// module is a stream like the istio.io/api module's, with one kind too many.
func module() []byte {
	var docs []string
	for _, name := range append(slices.Clone(kinds), "envoyfilters.networking.istio.io") {
		docs = append(docs, `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  annotations: {"helm.sh/resource-policy": keep}
  labels: {app: istio-pilot, heritage: Tiller}
  name: `+name+`
spec: {group: `+name[strings.Index(name, ".")+1:]+`}
`)
	}
	return []byte("# a comment\n" + strings.Join(docs, "---\n"))
}

func base() fstest.MapFS {
	return fstest.MapFS{
		"kustomization.yaml": {Data: []byte("resources: [namespace.yaml]\n")},
		settingsFile:         {Data: []byte("# why\nimage: garrison/proxy:dev\n")},
	}
}

func TestRender(t *testing.T) {
	for _, c := range []struct {
		registry, proxy, injector string
	}{
		{"", "garrison/proxy:v1", "garrison/injector"},
		{"localhost:5000", "localhost:5000/garrison/proxy:v1", "localhost:5000/garrison/injector"},
		{"reg.example.com/team", "reg.example.com/team/garrison/proxy:v1", "reg.example.com/team/garrison/injector"},
	} {
		in := input{base: base(), crds: module(), tag: "v1", registry: c.registry}
		files, err := render(in)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"base/kustomization.yaml", "base/" + settingsFile, "crds.yaml", "injector.yaml", "kustomization.yaml"}
		if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
			t.Errorf("files %q, want %q", got, want)
		}
		if got, want := string(files["injector.yaml"]), "# why\nimage: "+c.proxy+"\n"; got != want {
			t.Errorf("registry %q: settings %q, want %q", c.registry, got, want)
		}
		var k struct {
			Images []struct{ Name, NewName, NewTag string }
		}
		if err := yaml.Unmarshal(files["kustomization.yaml"], &k); err != nil {
			t.Fatal(err)
		}
		if i := k.Images[1]; i.Name != "garrison/injector" || i.NewName != c.injector || i.NewTag != "v1" {
			t.Errorf("registry %q: image %+v, want %s:v1", c.registry, i, c.injector)
		}
		again, err := render(in)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(files, again, bytes.Equal) {
			t.Error("the same input gave other bytes")
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*input)
		want   string
	}{
		"no tag":            {func(in *input) { in.tag = "" }, "--tag"},
		"tag with a colon":  {func(in *input) { in.tag = "a:b" }, "--tag"},
		"tag with newline":  {func(in *input) { in.tag = "a\nb" }, "--tag"},
		"registry as a URL": {func(in *input) { in.registry = "https://r.example.com" }, "--registry"},
		"registry, slash":   {func(in *input) { in.registry = "r.example.com/" }, "--registry"},
		"no sidecar image": {func(in *input) {
			in.base = fstest.MapFS{settingsFile: {Data: []byte("image: other\n")}}
		}, "settings/injector.yaml: names garrison/proxy:dev 0 times"},
		"a kind is gone": {func(in *input) { in.crds = bytes.ReplaceAll(in.crds, []byte("gateways"), []byte("doors")) },
			"the module has no gateways.networking.istio.io"},
		"not YAML": {func(in *input) { in.crds = []byte("a: [") }, "crds:"},
	} {
		t.Run(name, func(t *testing.T) {
			in := input{base: base(), crds: module(), tag: "v1"}
			c.change(&in)
			if _, err := render(in); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestCRDsAreOursAlone(t *testing.T) {
	out, err := selectCRDs(module())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, doc := range strings.Split(string(out), "---\n")[1:] {
		var crd struct {
			Metadata struct {
				Name                string
				Labels, Annotations map[string]string
			}
		}
		if err := yaml.Unmarshal([]byte(doc), &crd); err != nil {
			t.Fatal(err)
		}
		names = append(names, crd.Metadata.Name)
		if l := crd.Metadata.Labels; l["app.kubernetes.io/managed-by"] != "garrison" || l["app"] != "" || l["heritage"] != "" {
			t.Errorf("%s: labels %v", crd.Metadata.Name, l)
		}
		if len(crd.Metadata.Annotations) != 0 {
			t.Errorf("%s: annotations %v", crd.Metadata.Name, crd.Metadata.Annotations)
		}
	}
	if !slices.Equal(names, kinds) {
		t.Errorf("kinds %q, want %q", names, kinds)
	}
}

// The real base and the real module, as kubectl takes them.
func TestKustomize(t *testing.T) {
	kubectl, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl: ", err)
	}
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	crds, err := moduleCRDs(root)
	if err != nil {
		t.Fatal(err)
	}
	files, err := render(input{base: os.DirFS(filepath.Join(root, "manifests", "base")), crds: crds, tag: "v1.2.3", registry: "reg.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := replace(dir, files); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(kubectl, "kustomize", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	base := slices.Concat(files["base/citadel.yaml"], files["base/injector.yaml"])
	for _, image := range []string{"citadel", "injector", "proxy"} {
		if !bytes.Contains(out, []byte("image: reg.example.com/garrison/"+image+":v1.2.3\n")) {
			t.Errorf("the image of %s is not rewritten", image)
		}
	}
	for doc := range strings.SplitSeq(string(out), "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct {
				Name   string
				Labels map[string]string
			}
			Rules []struct{ ResourceNames []string }
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if o.Metadata.Labels["app.kubernetes.io/managed-by"] != "garrison" {
			t.Errorf("%s %s: not labelled as ours; hack/uninstall would leave it behind", o.Kind, o.Metadata.Name)
		}
		// kustomize follows references by name: a rule that names what shares its name
		// with generated settings would get their hash.
		for _, r := range o.Rules {
			for _, name := range r.ResourceNames {
				if !bytes.Contains(base, []byte("["+name+"]")) {
					t.Errorf("%s %s: rule for %s, which the base does not name", o.Kind, o.Metadata.Name, name)
				}
			}
		}
	}
}
