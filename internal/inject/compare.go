package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Strip returns the document of an injected pod without its sidecar.
func Strip(pod []byte) ([]byte, error) {
	p, err := ParsePod(pod)
	if err != nil {
		return nil, err
	}
	ops, err := Uninject(p)
	if err != nil {
		return nil, err
	}
	return Apply(pod, ops)
}

// Change is a field that an injected pod has otherwise than today's configuration
// would give it.
type Change struct {
	Field  string          `json:"field"`            // path, lists by name: spec.initContainers[istio-proxy].image
	Has    json.RawMessage `json:"has,omitempty"`    // of the pod; nil: absent
	Wants  json.RawMessage `json:"wants,omitempty"`  // today's; nil: absent
	Hidden bool            `json:"hidden,omitempty"` // they differ, and may hold what is nobody else's business
}

// String returns the change in one line.
func (c Change) String() string {
	if c.Hidden {
		return c.Field + ": differs"
	}
	return c.Field + ": " + spoken(c.Has) + " → " + spoken(c.Wants)
}

func spoken(value json.RawMessage) string {
	if value == nil {
		return "absent"
	}
	return string(value)
}

// Compare lists what today's settings would make otherwise of an injected pod, by
// taking its sidecar off and putting today's on, as the same kind of container. Only
// what injection sets counts: not what the API server fills in, nor what others have
// added to the sidecar. An error says why the pod cannot be made anew.
func Compare(pod []byte, at Situation, s Settings) ([]Change, error) {
	p, err := ParsePod(pod)
	if err != nil {
		return nil, err
	}
	prior, err := p.record()
	if err != nil {
		return nil, err
	}
	bare, err := Strip(pod)
	if err != nil {
		return nil, err
	}
	if p, err = ParsePod(bare); err != nil {
		return nil, err
	}
	e, err := newEdit(p, at, s)
	if err != nil {
		return nil, err
	}
	e.options.native = nativeNever
	if slices.Contains(prior.InitContainers, mesh.ProxyContainer) {
		e.options.native = nativeAlways
	}
	for _, do := range edits {
		if do(e); len(e.errs) > 0 {
			return nil, errors.Join(e.errs...)
		}
	}
	made, err := Apply(bare, e.ops)
	if err != nil {
		return nil, err
	}
	c := comparison{}
	for _, doc := range []struct {
		raw  []byte
		into *map[string]any
	}{{pod, &c.has}, {bare, &c.bare}, {made, &c.wants}} {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(doc.raw, doc.into); err != nil {
			return nil, err
		}
	}
	c.metadata("labels")
	c.metadata("annotations")
	c.list("initContainers", prior.InitContainers, e.record.InitContainers)
	c.list("containers", prior.Containers, e.record.Containers)
	c.list("volumes", prior.Volumes, e.record.Volumes)
	c.list("imagePullSecrets", prior.ImagePullSecrets, e.record.ImagePullSecrets)
	return c.changes, nil
}

// comparison goes through a pod as it is, without its sidecar, and as it would be.
type comparison struct {
	has, bare, wants map[string]any
	changes          []Change
}

func (c *comparison) differs(field string, has, wants any) {
	change := Change{Field: field}
	if has != nil {
		change.Has = plain(has)
	}
	if wants != nil {
		change.Wants = plain(wants)
	}
	c.changes = append(c.changes, change)
}

// plain is for people: without the escapes that JSON has for web pages.
func plain(v any) json.RawMessage {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(v) != nil { // what came from JSON goes back
		return nil
	}
	return bytes.TrimSpace(b.Bytes())
}

// metadata compares labels or annotations that injection writes. Two are known by
// what they lead to: the record, and the author's own containers.
func (c *comparison) metadata(part string) {
	of := func(doc map[string]any) map[string]any {
		meta, _ := doc["metadata"].(map[string]any)
		members, _ := meta[part].(map[string]any)
		return members
	}
	has, bare, wants := of(c.has), of(c.bare), of(c.wants)
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		if name == mesh.Status || name == mesh.Overrides || wants[name] == bare[name] || wants[name] == has[name] {
			continue
		}
		c.differs("metadata."+part+"["+name+"]", has[name], wants[name])
	}
}

// list compares the elements of a list of the specification that injection added, or
// would.
func (c *comparison) list(name string, added, adds []string) {
	of := func(doc map[string]any) []any {
		spec, _ := doc["spec"].(map[string]any)
		list, _ := spec[name].([]any)
		return list
	}
	has, wants := of(c.has), of(c.wants)
	for _, element := range adds {
		path := "spec." + name + "[" + element + "]"
		is, would := keyed(has, "name", element), keyed(wants, "name", element)
		switch {
		case would == nil: // an overlay took it out again
		case is == nil:
			c.differs(path, nil, "present")
		default:
			c.object(path, "", is, would)
		}
	}
	for _, element := range added {
		if !slices.Contains(adds, element) && keyed(has, "name", element) != nil && keyed(wants, "name", element) == nil {
			c.differs("spec."+name+"["+element+"]", "present", nil)
		}
	}
}

// keyed returns the first element of a list with that value of a member, or nil.
func keyed(list []any, key, value string) map[string]any {
	for _, element := range list {
		if e, _ := element.(map[string]any); e != nil && e[key] == value {
			return e
		}
	}
	return nil
}

// notDefaulted are fields of a container, and of its probes, that are only there
// because injection or the pod's author wrote them. That one is there and would not be
// is a difference.
var notDefaulted = []string{
	"image", "command", "args", "envFrom", "lifecycle", "securityContext", "readinessProbe", "startupProbe",
	"readinessProbe.initialDelaySeconds", "startupProbe.initialDelaySeconds",
}

// object compares two objects; within is the path from the container or volume on.
func (c *comparison) object(path, within string, has, wants map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		c.value(path+"."+name, strings.TrimPrefix(within+"."+name, "."), has[name], wants[name])
	}
	for _, name := range slices.Sorted(maps.Keys(has)) {
		member := strings.TrimPrefix(within+"."+name, ".")
		exact := slices.Contains(notDefaulted, member) || strings.HasPrefix(member, "securityContext.")
		if _, would := wants[name]; !would && exact {
			c.differs(path+"."+name, has[name], nil)
		}
	}
	if within == "" {
		c.goneVariables(path+".env", has["env"], wants["env"])
	}
}

func (c *comparison) value(path, within string, has, wants any) {
	switch w := wants.(type) {
	case map[string]any:
		if h, ok := has.(map[string]any); ok {
			c.object(path, within, h, w)
			return
		}
		if len(w) == 0 && has == nil {
			return
		}
	case []any:
		h, _ := has.([]any)
		switch {
		case within == "env":
			c.variables(path, h, w)
			return
		case within == "volumeMounts":
			c.mounts(path, h, w)
			return
		case len(h) == len(w):
			for i := range w {
				c.value(path+"["+strconv.Itoa(i)+"]", within+"[]", h[i], w[i])
			}
			return
		}
	}
	if !reflect.DeepEqual(has, wants) && (!strings.HasPrefix(within, "resources.") || !sameQuantity(has, wants)) {
		c.differs(path, has, wants)
	}
}

// sameQuantity reports whether 0.5 and 500m stand here: the API server writes
// quantities its own way.
func sameQuantity(a, b any) bool {
	one, err := resource.ParseQuantity(strings.Trim(string(plain(a)), `"`))
	if err != nil {
		return false
	}
	two, err := resource.ParseQuantity(strings.Trim(string(plain(b)), `"`))
	return err == nil && one.Cmp(two) == 0
}

// variables compares those that injection sets. The table of probes follows from the
// pod itself.
func (c *comparison) variables(path string, has, wants []any) {
	for _, variable := range wants {
		want, _ := variable.(map[string]any)
		name, _ := want["name"].(string)
		is := keyed(has, "name", name)
		if name == mesh.ProbersEnv || is != nil && same(is, want) {
			continue
		}
		c.variable(path, name, is, want)
	}
}

// goneVariables lists what injection has set and would not today. Others' stay out.
func (c *comparison) goneVariables(path string, has, wants any) {
	h, _ := has.([]any)
	w, _ := wants.([]any)
	for _, variable := range h {
		is, _ := variable.(map[string]any)
		name, _ := is["name"].(string)
		if known(name) && keyed(w, "name", name) == nil {
			c.variable(path, name, is, nil)
		}
	}
}

// known reports whether only injection sets a variable, and what it holds may be
// shown. Moved probes may have headers that nobody else should read.
func known(name string) bool {
	return name != mesh.ProbersEnv && (ownVariable(name) || name == mesh.ClusterEnv || name == mesh.NetworkEnv)
}

func (c *comparison) variable(path, name string, has, wants map[string]any) {
	path += "[" + name + "]"
	if !known(name) { // an overlay's or the author's own
		c.changes = append(c.changes, Change{Field: path, Hidden: true})
		return
	}
	value := func(v map[string]any) any {
		if v == nil {
			return nil
		}
		if from, ok := v["valueFrom"]; ok {
			return from
		}
		text, _ := v["value"].(string)
		return text
	}
	c.differs(path, value(has), value(wants))
}

func (c *comparison) mounts(path string, has, wants []any) {
	for _, mount := range wants {
		want, _ := mount.(map[string]any)
		where, _ := want["mountPath"].(string)
		if is := keyed(has, "mountPath", where); is == nil {
			c.differs(path+"["+where+"]", nil, want)
		} else if !same(is, want) {
			c.differs(path+"["+where+"]", is, want)
		}
	}
}
