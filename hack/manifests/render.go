package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// kinds are the policy kinds that Garrison serves, by the names of their CRDs.
var kinds = []string{
	"authorizationpolicies.security.istio.io",
	"destinationrules.networking.istio.io",
	"gateways.networking.istio.io",
	"peerauthentications.security.istio.io",
	"requestauthentications.security.istio.io",
	"virtualservices.networking.istio.io",
}

// Images as the base names them: the servers' in Deployments, where kustomize
// rewrites them, and the sidecar's in the injector's settings, where we do.
const (
	baseTag      = "dev"
	proxyImage   = "garrison/proxy"
	settingsFile = "settings/injector.yaml"
	settingsMap  = "garrison-injector-settings"
)

var serverImages = []string{"garrison/citadel", "garrison/injector"}

// input is all that a rendering depends on.
type input struct {
	base     fs.FS  // manifests/base
	crds     []byte // every CRD of the istio.io/api module, as YAML documents
	tag      string
	registry string // "": none, images are pulled by their bare names
}

// render returns the files of build/manifests by slash-separated path. Equal
// input gives equal bytes.
func render(in input) (map[string][]byte, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	err := fs.WalkDir(in.base, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(in.base, name)
		files[path.Join("base", name)] = content
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	if files["injector.yaml"], err = in.settings(files[path.Join("base", settingsFile)]); err != nil {
		return nil, fmt.Errorf("%s: %w", settingsFile, err)
	}
	if files["crds.yaml"], err = selectCRDs(in.crds); err != nil {
		return nil, fmt.Errorf("crds: %w", err)
	}
	if files["kustomization.yaml"], err = in.kustomization(); err != nil {
		return nil, fmt.Errorf("kustomization: %w", err)
	}
	return files, nil
}

// A tag as registries take it, and a registry with an optional port and path.
var (
	tagForm      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	registryForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._-]+)*$`)
)

func (in input) check() error {
	var errs []error
	if !tagForm.MatchString(in.tag) {
		errs = append(errs, fmt.Errorf("--tag %q: not a tag of an image", in.tag))
	}
	if in.registry != "" && !registryForm.MatchString(in.registry) {
		errs = append(errs, fmt.Errorf("--registry %q: not a registry, such as registry.example.com:5000/team", in.registry))
	}
	return errors.Join(errs...)
}

// image returns the name under which the registry has an image of ours.
func (in input) image(name string) string { return path.Join(in.registry, name) }

// settings puts the sidecar's image into the injector's settings and leaves their
// comments alone.
func (in input) settings(base []byte) ([]byte, error) {
	old := []byte(proxyImage + ":" + baseTag)
	if n := bytes.Count(base, old); n != 1 {
		return nil, fmt.Errorf("names %s %d times, want once", old, n)
	}
	return bytes.Replace(base, old, []byte(in.image(proxyImage)+":"+in.tag), 1), nil
}

func (in input) kustomization() ([]byte, error) {
	type image struct {
		Name    string `json:"name"`
		NewName string `json:"newName"`
		NewTag  string `json:"newTag"`
	}
	var images []image
	for _, name := range serverImages {
		images = append(images, image{Name: name, NewName: in.image(name), NewTag: in.tag})
	}
	content, err := yaml.Marshal(map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1beta1",
		"kind":       "Kustomization",
		"resources":  []string{"base", "crds.yaml"},
		"images":     images,
		"configMapGenerator": []any{map[string]any{
			"name": settingsMap, "namespace": "istio-system", "behavior": "merge", "files": []string{"injector.yaml"},
		}},
	})
	return append([]byte("# Rendered by hack/manifests. kubectl apply --server-side -k this folder.\n"), content...), err
}

// selectCRDs takes the CRDs of our kinds out of a stream of YAML documents and
// labels them as ours. It drops the labels and annotations of Istio's own
// installer, which would claim them for somebody else.
func selectCRDs(stream []byte) ([]byte, error) {
	found := map[string][]byte{}
	for doc := range bytes.SplitSeq(stream, []byte("\n---\n")) {
		var crd map[string]any
		if err := yaml.Unmarshal(doc, &crd); err != nil {
			return nil, err
		}
		meta, _ := crd["metadata"].(map[string]any)
		name, _ := meta["name"].(string)
		if !slices.Contains(kinds, name) {
			continue
		}
		crd["metadata"] = map[string]any{"name": name, "labels": map[string]any{
			"app.kubernetes.io/managed-by": "garrison",
			"app.kubernetes.io/part-of":    "garrison",
		}}
		out, err := yaml.Marshal(crd)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		found[name] = out
	}
	var missing []string
	for _, kind := range kinds {
		if found[kind] == nil {
			missing = append(missing, kind)
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("the module has no %s", strings.Join(missing, ", "))
	}
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out.WriteString("---\n")
		out.Write(found[name])
	}
	return out.Bytes(), nil
}
