package inject

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// bearsOut holds the injected containers and volumes of a pod to what injection makes. The
// API server fills in defaults, and others may add variables and mounts; what decides
// what runs, and as whom, must be as made.
func bearsOut(pod, made []byte) error {
	is, err := injectedParts(pod)
	if err != nil {
		return err
	}
	want, err := injectedParts(made)
	if err != nil {
		return err
	}
	for at, w := range want {
		got, ok := is[at]
		if !ok {
			return falseStatus("spec."+at, "missing")
		}
		if strings.HasPrefix(at, "volumes") {
			if !holds(got, w) {
				return falseStatus("spec."+at, "not what injection makes")
			}
			continue
		}
		for _, field := range []string{"image", "command", "args", "envFrom", "securityContext", "lifecycle", "restartPolicy"} {
			if !reflect.DeepEqual(got[field], w[field]) {
				return falseStatus(fmt.Sprintf("container %s: %s", w["name"], field), fmt.Sprintf("%s is not what injection makes, %s",
					cut(string(encoded(got[field]))), cut(string(encoded(w[field])))))
			}
		}
		for _, list := range []struct{ field, key string }{{"env", "name"}, {"volumeMounts", "mountPath"}} {
			if wrong := differs(got[list.field], w[list.field], list.key); wrong != "" {
				return falseStatus(fmt.Sprintf("container %s: %s", w["name"], list.field), quote(wrong)+" is not what injection makes")
			}
		}
	}
	return nil
}

// injectedParts returns a pod's istio-proxy, istio-init and volumes of the sidecar's by list
// and name.
func injectedParts(pod []byte) (map[string]map[string]any, error) {
	var doc struct {
		Spec map[string]json.RawMessage `json:"spec"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(pod, &doc); err != nil {
		return nil, err
	}
	found := map[string]map[string]any{}
	for _, list := range []string{"initContainers", "containers", "volumes"} {
		var elements []map[string]any
		if raw := doc.Spec[list]; raw != nil {
			if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &elements); err != nil {
				return nil, err
			}
		}
		for _, e := range elements {
			if name, _ := e["name"].(string); own(name) || list == "volumes" && isSidecarVolume(name) {
				found[list+"["+name+"]"] = e
			}
		}
	}
	return found, nil
}

// differs returns the key of the first wanted element that a list has not once and as
// wanted, or of a mount over the sidecar's own programs. The table of probes may have
// grown since.
func differs(got, want any, key string) string {
	has, _ := got.([]any)
	wanted, _ := want.([]any)
	of := func(element any) string {
		e, _ := element.(map[string]any)
		name, _ := e[key].(string)
		return name
	}
	for _, w := range wanted {
		name, times := of(w), 0
		for _, g := range has {
			if of(g) != name {
				continue
			}
			if times++; times > 1 || name != mesh.ProbersEnv && !holds(g, w) {
				return name
			}
		}
		if times == 0 && name != mesh.ProbersEnv {
			return name
		}
	}
	for _, g := range has {
		known := slices.ContainsFunc(wanted, func(w any) bool { return of(w) == of(g) })
		if !known && key == "mountPath" && checkMountPath(of(g)) != nil && of(g) != mesh.APITokenDir {
			return of(g)
		}
	}
	return ""
}

// holds reports whether every member that is wanted is there with that value.
func holds(got, want any) bool {
	w, ok := want.(map[string]any)
	if !ok {
		return reflect.DeepEqual(got, want)
	}
	g, ok := got.(map[string]any)
	if !ok {
		return false
	}
	for key, value := range w {
		if !holds(g[key], value) {
			return false
		}
	}
	return true
}
