package inject

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// overrides are containers of the pod's author that bear the names of injected ones:
// their fields beat those of injection, one by one. This is their form in the
// annotation, which is Istio's.
type overrides struct {
	Containers     []json.RawMessage `json:"containers,omitempty"`
	InitContainers []json.RawMessage `json:"initContainers,omitempty"`
}

func (o overrides) empty() bool { return len(o.Containers)+len(o.InitContainers) == 0 }

// of returns the author's fields for an injected container, or nil.
func (o overrides) of(name string) json.RawMessage {
	for _, raw := range slices.Concat(o.Containers, o.InitContainers) {
		var c named
		if kjson.UnmarshalCaseSensitivePreserveInts(raw, &c) == nil && c.Name == name {
			return raw
		}
	}
	return nil
}

// autoImage is what the author writes where an image must stand and injection is to
// choose it.
const autoImage = "auto"

// takeOverrides takes the author's own istio-proxy and istio-init out of the pod, and
// out of the document: injection puts the result where it belongs.
func takeOverrides(e *edit) {
	for _, list := range []struct {
		name string
		of   *[]container
		to   *[]json.RawMessage
	}{
		{"containers", &e.pod.spec.Containers, &e.overrides.Containers},
		{"initContainers", &e.pod.spec.InitContainers, &e.overrides.InitContainers},
	} {
		if !slices.ContainsFunc(*list.of, func(c container) bool { return own(c.Name) }) {
			continue
		}
		raw, err := e.pod.rawList(list.name)
		if err != nil {
			e.fail(err)
			return
		}
		kept := make([]container, 0, len(*list.of))
		for i, c := range slices.Backward(*list.of) {
			if !own(c.Name) {
				kept = append(kept, c)
				continue
			}
			if e.overrides.of(c.Name) != nil {
				e.refuse(ReservedName, fmt.Sprintf("spec.%s[%d].name", list.name, i), "%s stands in the pod twice", c.Name)
				return
			}
			*list.to = append(*list.to, raw[i])
			e.remove("/spec/" + list.name + "/" + strconv.Itoa(i))
		}
		slices.Reverse(kept)
		*list.of = kept
	}
	takeUser(e)
}

// takeUser has capture leave the user alone that the author has the proxy run as, as
// Istio does; root stays what everybody may be.
func takeUser(e *edit) {
	var c struct {
		SecurityContext runAs `json:"securityContext"`
	}
	raw := e.overrides.of(mesh.ProxyContainer)
	if raw == nil || kjson.UnmarshalCaseSensitivePreserveInts(raw, &c) != nil {
		return // what cannot be read is refused when it is merged
	}
	if user := c.SecurityContext.User; user != nil && *user > 0 && *user != mesh.ProxyUID {
		e.options.user, e.options.custom = *user, true
	}
}

// rawList returns the elements of a list of the specification as they were sent.
func (p *Pod) rawList(list string) ([]json.RawMessage, error) {
	var doc struct {
		Spec map[string]json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(p.raw, &doc); err != nil {
		return nil, err
	}
	var all []json.RawMessage
	return all, json.Unmarshal(doc.Spec[list], &all)
}

// override merges the author's fields over an injected container.
func (e *edit) override(name string, injected json.RawMessage) json.RawMessage {
	raw := e.overrides.of(name)
	if raw == nil || injected == nil {
		return injected
	}
	patch := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &patch); err != nil {
		e.fail(err)
		return injected
	}
	dropFilledIn(patch)
	for _, field := range slices.Sorted(maps.Keys(patch)) {
		if list, _ := patch[field].([]any); len(list) > maxListed { // merging costs its square
			e.refuse(Malformed, "container "+name+": "+field, "a list of more than %d", maxListed)
			return injected
		}
	}
	e.grantOverride(name, patch)
	original := map[string]any{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(injected, &original); err != nil {
		e.fail(err)
		return injected
	}
	schema, err := strategicpatch.NewPatchMetaFromStruct(corev1.Container{})
	if err != nil {
		e.fail(err)
		return injected
	}
	merged, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(clone(original), patch, lenient{schema})
	if err != nil {
		e.refuse(ReservedName, "container "+name, "cannot be merged over the injected one: %s", cut(err.Error()))
		return injected
	}
	return e.raw(ordered(original, map[string]any(merged)))
}

// dropFilledIn takes out of the author's fields what is not the author's: the API server
// has filled it in where there was nothing, or where an image had to stand.
func dropFilledIn(patch map[string]any) {
	if image := patch["image"]; image == autoImage || image == "" {
		delete(patch, "image")
		delete(patch, "imagePullPolicy") // that of an image of that name
	}
	if all, _ := patch["resources"].(map[string]any); len(all) == 0 {
		delete(patch, "resources")
	}
	mounts, _ := patch["volumeMounts"].([]any)
	mounts = slices.DeleteFunc(mounts, func(mount any) bool { // the pod's token, which is covered
		m, _ := mount.(map[string]any)
		name, _ := m["name"].(string)
		return m["mountPath"] == mesh.APITokenDir && strings.HasPrefix(name, "kube-api-access-")
	})
	if patch["volumeMounts"] = mounts; len(mounts) == 0 {
		delete(patch, "volumeMounts")
	}
}

// grantOverride holds the author's fields against what the namespace may override.
// Resources and the like change what the sidecar costs; all others, also those that this
// build does not know, may change what it is: they are holes, and a strict namespace
// wants them named.
func (e *edit) grantOverride(name string, patch map[string]any) {
	for _, field := range slices.Sorted(maps.Keys(patch)) {
		switch field {
		case "name", "imagePullPolicy", "terminationMessagePath", "terminationMessagePolicy": // filled in by the API server
		case "image":
			image, _ := patch[field].(string)
			e.grantImage(e.settings.trusts(e.ns), "container "+name+": "+field, image, OnPod)
		default:
			e.grantField(name, field, "of the pod's own")
		}
	}
}

// grantField grants a field of an injected container that holds something else than
// injection wrote.
func (e *edit) grantField(container, field, whose string) {
	rule, at, where := e.settings.trusts(e.ns), container+"."+field, "container "+container+": "+field
	switch {
	case !rule.overrides.grant(at, false):
		e.refuse(NotGranted, where, "the operator does not allow to override this in namespace %s", quote(e.ns.Name))
	case slices.Contains([]string{"resources", "resizePolicy", "ports"}, field): // it costs, and that is all
	case strict(e.ns) && !rule.overrides.grant(at, true):
		e.refuse(StrictCapture, where, "namespace %s is labelled %s=%s, and no trust rule names override %s",
			quote(e.ns.Name), mesh.CaptureLabel, mesh.CaptureStrict, at)
	default:
		e.hole(OnPod, "container "+container+" has "+field+" "+whose)
	}
}

// lenient merges fields that our Kubernetes types do not know as plain values.
type lenient struct{ strategicpatch.LookupPatchMeta }

func (l lenient) LookupPatchMetadataForStruct(key string) (strategicpatch.LookupPatchMeta, strategicpatch.PatchMeta, error) {
	schema, meta, err := l.LookupPatchMeta.LookupPatchMetadataForStruct(key)
	if err != nil {
		return lenient{unknownFields{}}, strategicpatch.PatchMeta{}, nil
	}
	return lenient{schema}, meta, nil
}

func (l lenient) LookupPatchMetadataForSlice(key string) (strategicpatch.LookupPatchMeta, strategicpatch.PatchMeta, error) {
	schema, meta, err := l.LookupPatchMeta.LookupPatchMetadataForSlice(key)
	if err != nil {
		return lenient{unknownFields{}}, strategicpatch.PatchMeta{}, nil
	}
	return lenient{schema}, meta, nil
}

// unknownFields is the schema below a field that nobody knows.
type unknownFields struct{}

func (unknownFields) LookupPatchMetadataForStruct(string) (strategicpatch.LookupPatchMeta, strategicpatch.PatchMeta, error) {
	return unknownFields{}, strategicpatch.PatchMeta{}, nil
}

func (unknownFields) LookupPatchMetadataForSlice(string) (strategicpatch.LookupPatchMeta, strategicpatch.PatchMeta, error) {
	return unknownFields{}, strategicpatch.PatchMeta{}, nil
}

func (unknownFields) Name() string { return "unknown" }

// annotateOverrides leaves what the author wrote, for whoever takes the sidecar off or
// makes it anew.
func annotateOverrides(e *edit) {
	if e.overrides.empty() {
		if _, ok := e.pod.meta.Annotations[mesh.Overrides]; ok {
			e.remove("/metadata/annotations" + pointer(mesh.Overrides))
			e.warn("annotation %s is taken out: it is of an earlier sidecar, and overrides nothing", mesh.Overrides)
		}
		return
	}
	e.annotate(mesh.Overrides, string(canonical(e.raw(e.overrides))))
}
