package inject

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// addition is a field of an injected container that holds more than injection wrote.
type addition struct{ container, field string }

// bearsOut holds the containers and volumes that a pod says injection added, which the
// record of injection lists, to what injection makes of it. What decides what runs, and
// as whom, must be as made. The API server fills in defaults, and others may have added
// to istio-proxy and istio-init without changing what was there: that is returned.
func bearsOut(pod, made []byte, r record) ([]addition, error) {
	is, err := namedParts(pod)
	if err != nil {
		return nil, err
	}
	want, err := namedParts(made)
	if err != nil {
		return nil, err
	}
	var added []addition
	for _, list := range []struct {
		name  string
		names []string
	}{{"initContainers", r.InitContainers}, {"containers", r.Containers}, {"volumes", r.Volumes}} {
		for _, name := range list.names {
			got, w := is[list.name][name], want[list.name][name]
			at := "spec." + list.name + "[" + name + "]"
			switch {
			case got == nil:
				return nil, falseStatus(at, "missing")
			case list.name != "volumes":
				more, err := containerBearsOut(name, got, w)
				if err != nil {
					return nil, err
				}
				if own(name) {
					added = append(added, more...)
				}
			case !isSidecarVolume(name):
				got, w = kindOf(got), kindOf(w)
				fallthrough
			default:
				if !same(got, w) {
					return nil, falseStatus(at, "not what injection makes")
				}
			}
		}
	}
	return added, nil
}

// namedParts returns the containers and volumes of a pod, by list and name.
func namedParts(pod []byte) (map[string]map[string]map[string]any, error) {
	var doc struct {
		Spec map[string]json.RawMessage `json:"spec"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(pod, &doc); err != nil {
		return nil, err
	}
	parts := map[string]map[string]map[string]any{}
	for _, list := range []string{"initContainers", "containers", "volumes"} {
		var elements []map[string]any
		if raw := doc.Spec[list]; raw != nil {
			if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &elements); err != nil {
				return nil, err
			}
		}
		parts[list] = make(map[string]map[string]any, len(elements))
		for _, e := range elements {
			name, _ := e["name"].(string)
			parts[list][name] = e
		}
	}
	return parts, nil
}

// kindOf leaves of a volume what it is: others may fill in the rest, and the path of a
// hostPath is not the rest.
func kindOf(volume map[string]any) map[string]any {
	kind := maps.Clone(volume)
	for member := range kind {
		if member != "name" && member != hostPath {
			kind[member] = true
		}
	}
	return kind
}

// containerBearsOut holds one container to what injection makes, and returns the fields
// that hold more.
func containerBearsOut(name string, got, want map[string]any) (added []addition, err error) {
	wrong := func(field, problem string, args ...any) error {
		return falseStatus("container "+name+": "+field, fmt.Sprintf(problem, args...))
	}
	for _, field := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[field]; !ok {
			want[field] = nil
		}
	}
	for _, field := range slices.Sorted(maps.Keys(want)) {
		is, w := got[field], want[field]
		switch field {
		case "name", "imagePullPolicy", "ports", "resizePolicy", "resources", "terminationMessagePath", "terminationMessagePolicy":
		case "env", "volumeMounts":
			other, more := differs(is, w, map[string]string{"env": "name", "volumeMounts": "mountPath"}[field])
			if other != "" {
				return nil, wrong(field, "%s is not what injection makes", quote(other))
			}
			if more {
				added = append(added, addition{name, field})
			}
		case "readinessProbe", "livenessProbe", "startupProbe":
			if !same(asking(is), asking(w)) {
				return nil, wrong(field, "it does not ask what injection has it ask")
			}
		case "image", "command", "args", "envFrom", "securityContext", "lifecycle", "restartPolicy":
			if !same(is, w) {
				return nil, wrong(field, "%s is not what injection makes, %s", cut(string(encoded(is))), cut(string(encoded(w))))
			}
		default:
			if !same(is, w) {
				added = append(added, addition{name, field})
			}
		}
	}
	return added, nil
}

// asking leaves of a probe what is asked, and not how often.
func asking(probe any) map[string]any {
	p, _ := probe.(map[string]any)
	asks := map[string]any{}
	for _, kind := range []string{"exec", "grpc", "httpGet", "tcpSocket"} {
		if handler, ok := p[kind]; ok {
			asks[kind] = handler
		}
	}
	return asks
}

// differs returns the key of the first wanted element that a list has not once and as
// wanted, or of a mount over the sidecar's own programs; and whether the list has more.
// The table of probes may have grown since.
func differs(got, want any, key string) (wrong string, more bool) {
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
			if times++; times > 1 || name != mesh.ProbersEnv && !same(g, w) {
				return name, false
			}
		}
		if times == 0 && name != mesh.ProbersEnv {
			return name, false
		}
	}
	for _, g := range has {
		known := slices.ContainsFunc(wanted, func(w any) bool { return of(w) == of(g) })
		if !known && key == "mountPath" && checkMountPath(of(g)) != nil && of(g) != mesh.APITokenDir {
			return of(g), false
		}
		more = more || !known
	}
	return "", more
}

// same reports whether a value is the wanted one, but for what the API server fills in
// or leaves out.
func same(got, want any) bool {
	if empty(want) {
		return empty(got)
	}
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		for member, value := range w {
			if !same(g[member], value) {
				return false
			}
		}
		for member, value := range g {
			if _, wanted := w[member]; !wanted && !filledIn(member, value) {
				return false
			}
		}
		return true
	case []any:
		g, _ := got.([]any)
		return slices.EqualFunc(g, w, same)
	}
	return reflect.DeepEqual(got, want)
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// filledIn reports whether a member is there because the API server, or whoever bounds
// what pods use, writes it where nobody did.
func filledIn(member string, value any) bool {
	switch member {
	case "apiVersion", "defaultMode", "divisor", "sizeLimit":
		return true
	case "path":
		return value == "/"
	case "scheme":
		return value == "HTTP"
	}
	return empty(value)
}
