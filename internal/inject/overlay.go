package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// sidecarTemplate is the one template that is built in.
const sidecarTemplate = "sidecar"

// Overlays are strategic merge patches of pods that the operator offers by name. The
// zero value has none.
type Overlays struct{ named map[string]overlay }

type overlay struct {
	name  string
	patch map[string]any
	hash  string
}

// Names returns the names, sorted.
func (o Overlays) Names() []string { return slices.Sorted(maps.Keys(o.named)) }

// ParseOverlays reads the data of a ConfigMap: for each key, which is the overlay's name,
// perhaps with .yaml behind it, a part of a pod as YAML. The error names every key that
// is wrong; nothing of them is used then.
func ParseOverlays(data map[string]string) (Overlays, error) {
	o := Overlays{named: map[string]overlay{}}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(data)) {
		name := strings.TrimSuffix(key, ".yaml")
		patch, err := parseOverlay(name, data[key])
		if _, twice := o.named[name]; twice {
			err = errors.New("is there twice, with and without .yaml")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("overlay %s: %w", quote(key), err))
			continue
		}
		sum := sha256.Sum256([]byte(data[key]))
		o.named[name] = overlay{name: name, patch: patch, hash: hex.EncodeToString(sum[:8])}
	}
	if len(errs) > 0 {
		return Overlays{}, errors.Join(errs...)
	}
	return o, nil
}

func parseOverlay(name, text string) (map[string]any, error) {
	if name == sidecarTemplate {
		return nil, errors.New("is the name of the built-in template")
	}
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		return nil, errors.New("name: " + strings.Join(problems, "; "))
	}
	raw, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return nil, err
	}
	unknown, err := kjson.UnmarshalStrict(raw, &corev1.Pod{})
	if err != nil {
		return nil, err
	}
	for _, problem := range unknown {
		if !strings.Contains(problem.Error(), `"$`) && !strings.Contains(problem.Error(), ".$") { // directives of the merge
			return nil, problem
		}
	}
	var patch map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &patch); err != nil {
		return nil, err
	}
	for _, member := range slices.Sorted(maps.Keys(patch)) {
		if member != "metadata" && member != "spec" && member != "apiVersion" && member != "kind" {
			return nil, fmt.Errorf("%s: an overlay has metadata and spec only", member)
		}
	}
	delete(patch, "apiVersion")
	delete(patch, "kind")
	if len(patch) == 0 {
		return nil, errors.New("is empty")
	}
	meta, _ := patch["metadata"].(map[string]any)
	for _, member := range slices.Sorted(maps.Keys(meta)) {
		if member != "labels" && member != "annotations" {
			return nil, fmt.Errorf("metadata.%s: an overlay sets labels and annotations only", member)
		}
	}
	return patch, nil
}

// mounts reports whether the overlay gives a container a volume.
func (o overlay) mounts(container, volume string) bool {
	spec, _ := o.patch["spec"].(map[string]any)
	for _, list := range []string{"initContainers", "containers"} {
		all, _ := spec[list].([]any)
		mounts, _ := keyed(all, "name", container)["volumeMounts"].([]any)
		if keyed(mounts, "name", volume) != nil {
			return true
		}
	}
	return false
}

// WithOverlays returns settings that offer these overlays. It tries each of them on a
// pod: the error names the first that does not leave the sidecar in it.
func (s Settings) WithOverlays(o Overlays) (Settings, error) {
	s.overlays = o
	for _, name := range o.Names() {
		pod, err := ParsePod([]byte(`{"metadata":{"name":"trial","annotations":{}},"spec":{"containers":[{"name":"app","image":"app"}]}}`))
		if err != nil {
			return s, err
		}
		pod.meta.Annotations[mesh.Templates] = sidecarTemplate + "," + name
		if _, err := inject(pod, Situation{}, s); err != nil {
			return s, fmt.Errorf("overlay %s: %w", name, err)
		}
	}
	return s, nil
}

// Overlays returns the overlays that the settings offer.
func (s Settings) Overlays() Overlays { return s.overlays }

// parseTemplates reads names; whether they exist is known to the settings only.
func parseTemplates(value string) ([]string, error) {
	names, err := parseList(value, false, func(word string) (string, error) {
		if problems := validation.IsDNS1123Label(word); len(problems) > 0 {
			return word, errors.New("not a name of lower-case letters, digits and -")
		}
		return word, nil
	})
	if err != nil {
		return nil, err
	}
	if names == "" {
		return nil, errors.New("empty")
	}
	return strings.Split(string(names), ","), nil
}

// overlaysFor returns the overlays that a list of templates names, aliases written out
// once, as in Istio.
func (s Settings) overlaysFor(templates []string) ([]overlay, error) {
	if len(templates) == 1 && templates[0] == sidecarTemplate {
		return nil, nil
	}
	var names []string
	for _, name := range templates {
		if of, ok := s.aliases[name]; ok {
			names = append(names, of...)
		} else {
			names = append(names, name)
		}
	}
	var chosen []overlay
	for _, name := range names {
		o, ok := s.overlays.named[name]
		switch {
		case name == sidecarTemplate:
		case !ok:
			return nil, fmt.Errorf("%s is no template; there are: %s", quote(name), strings.Join(append([]string{sidecarTemplate}, s.overlays.Names()...), ", "))
		case !slices.ContainsFunc(chosen, func(c overlay) bool { return c.name == name }):
			chosen = append(chosen, o)
		}
	}
	if !slices.Contains(names, sidecarTemplate) {
		return nil, fmt.Errorf("%s is missing: overlays come on top of it", sidecarTemplate)
	}
	return chosen, nil
}

func (s Settings) checkAliases() error {
	for _, alias := range slices.Sorted(maps.Keys(s.aliases)) {
		if alias == sidecarTemplate || len(s.aliases[alias]) == 0 {
			return fmt.Errorf("templateAliases[%s]: must be another name than %s and stand for at least one template", alias, sidecarTemplate)
		}
	}
	return nil
}

// applyOverlays merges the chosen overlays over the pod as it is by now, and says as
// operations what they change.
func applyOverlays(e *edit) {
	if len(e.chosen) == 0 {
		return
	}
	before, err := e.document()
	if err != nil {
		e.fail(err)
		return
	}
	if at := longList("spec", before["spec"]); at != "" {
		e.refuse(Malformed, at, "a list of more than %d, to which overlays are not merged", maxMerged)
		return
	}
	schema, err := strategicpatch.NewPatchMetaFromStruct(corev1.Pod{})
	if err != nil {
		e.fail(err)
		return
	}
	after := before
	for _, o := range e.chosen {
		after, err = strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(clone(after), e.placed(o.patch), lenient{schema})
		if err != nil {
			e.refuse(Malformed, "template "+o.name, "cannot be merged over this pod: %s", cut(err.Error()))
			return
		}
	}
	after, _ = ordered(before, after).(map[string]any)
	e.ops = append(e.ops, difference("", before, after)...)
	e.recordAdded(before, after)
	e.moveOverlaid()
}

// maxMerged bounds the lists of a pod that overlays are merged over, which costs the
// square of their length: some tenths of a second for as many.
const maxMerged = 2048

// longList returns the path of a list that is longer, or "".
func longList(path string, v any) string {
	switch v := v.(type) {
	case []any:
		if len(v) > maxMerged {
			return path
		}
		for i, element := range v {
			if at := longList(path+"["+strconv.Itoa(i)+"]", element); at != "" {
				return at
			}
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if at := longList(path+"."+name, v[name]); at != "" {
				return at
			}
		}
	}
	return ""
}

// moveOverlaid moves the probes that overlays brought.
func (e *edit) moveOverlaid() {
	raw, err := Apply(e.pod.raw, e.ops)
	if err != nil {
		e.fail(err)
		return
	}
	pod, err := ParsePod(raw)
	if err != nil {
		e.fail(err)
		return
	}
	ops, err := pod.newcomers(e.at, e.settings)
	if err != nil {
		e.fail(err)
		return
	}
	e.ops = append(e.ops, ops...)
}

// placed returns an overlay with the injected containers in the list where this pod
// has them: its author does not know which kind of container the proxy is here.
func (e *edit) placed(patch map[string]any) map[string]any {
	patch = clone(patch)
	spec, _ := patch["spec"].(map[string]any)
	if spec == nil {
		return patch
	}
	var inits, containers []any
	for _, list := range []string{"initContainers", "containers"} {
		entries, _ := spec[list].([]any)
		for _, entry := range entries {
			c, _ := entry.(map[string]any)
			name, _ := c["name"].(string)
			toInit := list == "initContainers"
			switch name {
			case mesh.ProxyContainer:
				toInit = e.native
			case mesh.InitContainer:
				if toInit = true; e.sidecar.redirect == nil {
					continue // nothing is captured
				}
			}
			if toInit {
				inits = append(inits, entry)
			} else {
				containers = append(containers, entry)
			}
		}
		delete(spec, list)
	}
	if inits != nil {
		spec["initContainers"] = inits
	}
	if containers != nil {
		spec["containers"] = containers
	}
	return patch
}

// recordAdded notes what overlays added that has a name, so that it can be taken off.
func (e *edit) recordAdded(before, after map[string]any) {
	for _, list := range []struct {
		name string
		to   *[]string
	}{
		{"initContainers", &e.record.InitContainers},
		{"containers", &e.record.Containers},
		{"volumes", &e.record.Volumes},
		{"imagePullSecrets", &e.record.ImagePullSecrets},
	} {
		had, has := names(before, list.name), names(after, list.name)
		known := map[string]bool{}
		for _, name := range had {
			known[name] = true
		}
		for _, name := range has {
			if !known[name] {
				*list.to = append(*list.to, name)
			}
		}
		for _, name := range []string{mesh.ProxyContainer, mesh.InitContainer} {
			if slices.Contains(had, name) && !slices.Contains(has, name) {
				e.refuse(Malformed, "inject.istio.io/templates", "the overlays take container %s out", name)
			}
		}
	}
	meta, _ := after["metadata"].(map[string]any)
	was, _ := before["metadata"].(map[string]any)
	e.record.Labels = append(e.record.Labels, newKeys(was["labels"], meta["labels"])...)
	e.record.Annotations = append(e.record.Annotations, newKeys(was["annotations"], meta["annotations"])...)
	e.pod.meta.Annotations = map[string]string{}
	annotations, _ := meta["annotations"].(map[string]any)
	for key, value := range annotations {
		e.pod.meta.Annotations[key], _ = value.(string)
	}
}

func newKeys(before, after any) []string {
	had, _ := before.(map[string]any)
	has, _ := after.(map[string]any)
	var added []string
	for _, key := range slices.Sorted(maps.Keys(has)) {
		if _, ok := had[key]; !ok {
			added = append(added, key)
		}
	}
	return added
}

// names returns the names in a list of the specification.
func names(pod map[string]any, list string) []string {
	spec, _ := pod["spec"].(map[string]any)
	entries, _ := spec[list].([]any)
	var all []string
	for _, entry := range entries {
		e, _ := entry.(map[string]any)
		if name, ok := e["name"].(string); ok {
			all = append(all, name)
		}
	}
	return all
}
