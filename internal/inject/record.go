package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// record is the value of the status annotation, in Istio's form. What is added to
// that form says which labels and annotations were not the author's, and of which
// configuration the sidecar was made.
type record struct {
	InitContainers   []string `json:"initContainers"`
	Containers       []string `json:"containers"`
	Volumes          []string `json:"volumes"`
	ImagePullSecrets []string `json:"imagePullSecrets"`
	Revision         string   `json:"revision"`
	Hash             string   `json:"hash,omitempty"`
	Labels           []string `json:"labels,omitempty"`
	Annotations      []string `json:"annotations,omitempty"`
}

var statusField = annotationAt(mesh.Status, OnPod, "")

// record reads what the pod says of an earlier injection. It is the pod's own word:
// a record that names what is not there, or that another injector wrote, is refused.
func (p *Pod) record() (record, error) {
	value := p.meta.Annotations[mesh.Status]
	var r record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return r, annotationRefusal(mesh.Status, value, "not the JSON that injection writes: "+cut(strings.TrimPrefix(err.Error(), "json: ")))
	}
	if r.Hash == "" {
		return r, falseStatus(statusField, "not written by Garrison, which always says of which configuration: was the pod injected by another injector, or its record copied?")
	}
	for _, list := range []struct {
		name string
		says []string
		of   []container
	}{{"initContainers", r.InitContainers, p.spec.InitContainers}, {"containers", r.Containers, p.spec.Containers}} {
		for _, name := range list.says {
			if !slices.ContainsFunc(list.of, func(c container) bool { return c.Name == name }) {
				return r, falseStatus(statusField, fmt.Sprintf("it says that injection added container %s, and spec.%s has none", quote(name), list.name))
			}
		}
	}
	return r, nil
}

// falseStatus refuses a record that does not hold.
func falseStatus(field, problem string) *Refusal {
	return &Refusal{Reason: FalseStatus, Field: field, Problem: problem + "; `garrison uninject` takes an old sidecar off a manifest, or remove the annotation and the containers that it names"}
}

// reinject answers for a pod that carries a record of injection. It makes the sidecar
// anew, out of what the pod would be without it: where that was made of another
// configuration, it takes the other's place; where it was made of this one, the pod's
// containers must be what is claimed of them, and only probes that came later are
// still to be moved.
func reinject(pod *Pod, at Situation, s Settings) (Injection, error) {
	prior, err := pod.record()
	if err != nil {
		return Injection{}, err
	}
	for _, name := range slices.Concat(prior.InitContainers, prior.Containers) {
		if !own(name) && !s.addsContainer(name) {
			return Injection{}, falseStatus(statusField, fmt.Sprintf("it lists container %s, which injection does not add", quote(name)))
		}
	}
	strip, err := pod.uninject(prior)
	if err != nil {
		return Injection{}, err
	}
	raw, err := apply(pod.raw, strip)
	if err != nil {
		return Injection{}, falseStatus(statusField, cut(err.Error()))
	}
	bare, err := ParsePod(raw)
	if err != nil {
		return Injection{}, err
	}
	again, err := inject(bare, at, s)
	if err != nil {
		return Injection{}, err
	}
	again.Again = true
	if again.Hash != prior.Hash {
		again.Ops = append(strip, again.Ops...)
		return again, nil
	}
	made, err := apply(raw, again.Ops)
	if err != nil {
		return Injection{}, err
	}
	if err := bearsOut(pod.raw, made); err != nil {
		return Injection{}, err
	}
	again.Ops, err = pod.newcomers(at, s)
	return again, err
}

// addsContainer reports whether one of the overlays adds a container of that name.
func (s Settings) addsContainer(name string) bool {
	for _, o := range s.overlays.named {
		if slices.Contains(slices.Concat(names(o.patch, "initContainers"), names(o.patch, "containers")), name) {
			return true
		}
	}
	return false
}

// newcomers moves the probes of containers that came after the sidecar.
func (p *Pod) newcomers(at Situation, s Settings) ([]Operation, error) {
	e, err := newEdit(p, at, s)
	if err != nil {
		return nil, err
	}
	proxy, where, err := p.proxy()
	if err != nil || proxy == nil {
		return nil, err
	}
	table, env := proxy.probers()
	status := int32(e.options.statusPort())
	e.pod.spec.Containers = p.without(p.spec.Containers, table, status)
	e.pod.spec.InitContainers = p.without(p.spec.InitContainers, table, status)
	if moveProbes(e); len(e.errs) > 0 || len(e.probers) == 0 {
		return nil, errors.Join(e.errs...)
	}
	maps.Copy(e.probers, table)
	value, err := proberTable(e.probers)
	if err != nil {
		return nil, err
	}
	variable := corev1.EnvVar{Name: mesh.ProbersEnv, Value: value}
	if env >= 0 {
		e.do("replace", where+"/env/"+strconv.Itoa(env), variable)
	} else {
		e.insert(where+"/env", len(proxy.Env), len(proxy.Env), []json.RawMessage{e.raw(variable)})
	}
	return e.ops, errors.Join(e.errs...)
}

// without returns containers without the probes that the table has already, and
// without those of the sidecar. Positions stay.
func (p *Pod) without(containers []container, table map[string]prober, status int32) []container {
	kept := slices.Clone(containers)
	for i := range kept {
		c := &kept[i]
		if own(c.Name) {
			*c = container{Name: c.Name}
			continue
		}
		moved := func(path string, h *corev1.HTTPGetAction) bool {
			_, known := table[path]
			return known && h != nil && h.Path == path && h.Port.IntVal == status
		}
		for name, probe := range map[string]**corev1.Probe{"readyz": &c.ReadinessProbe, "livez": &c.LivenessProbe, "startupz": &c.StartupProbe} {
			if *probe != nil && moved(mesh.AppHealthPrefix+c.Name+"/"+name, (*probe).HTTPGet) {
				*probe = nil
			}
		}
		if c.Lifecycle != nil {
			l := *c.Lifecycle
			c.Lifecycle = &l
			for name, hook := range map[string]**corev1.LifecycleHandler{"prestopz": &l.PreStop, "poststartz": &l.PostStart} {
				if *hook != nil && moved(mesh.AppLifecyclePrefix+c.Name+"/"+name, (*hook).HTTPGet) {
					*hook = nil
				}
			}
		}
	}
	return kept
}

// proxyContainerOf is what is read of an injected proxy.
type proxyEnvironment struct {
	Env []corev1.EnvVar `json:"env"`
}

// proxy returns the environment of the pod's proxy and the path of its container, or
// nil where it has none.
func (p *Pod) proxy() (*proxyEnvironment, string, error) {
	for _, list := range []struct {
		name string
		of   []container
	}{{"initContainers", p.spec.InitContainers}, {"containers", p.spec.Containers}} {
		i := slices.IndexFunc(list.of, func(c container) bool { return c.Name == mesh.ProxyContainer })
		if i < 0 {
			continue
		}
		raw, err := p.rawList(list.name)
		if err != nil {
			return nil, "", err
		}
		var env proxyEnvironment
		if err := kjson.UnmarshalCaseSensitivePreserveInts(raw[i], &env); err != nil {
			return nil, "", err
		}
		return &env, "/spec/" + list.name + "/" + strconv.Itoa(i), nil
	}
	return nil, "", nil
}

// variable returns a variable's value and place, or -1.
func (p *proxyEnvironment) variable(name string) (string, int) {
	i := slices.IndexFunc(p.Env, func(v corev1.EnvVar) bool { return v.Name == name })
	if i < 0 {
		return "", i
	}
	return p.Env[i].Value, i
}

// probers reads the table of moved probes, which is none where it cannot be read: then
// nothing is known to have been moved.
func (p *proxyEnvironment) probers() (map[string]prober, int) {
	value, i := p.variable(mesh.ProbersEnv)
	var table map[string]prober
	if i >= 0 && json.Unmarshal([]byte(value), &table) != nil {
		table = nil
	}
	return table, i
}

// uninject returns what takes the sidecar off again, all but the changes that overlays
// made to what is not theirs.
func (p *Pod) uninject(r record) ([]Operation, error) {
	e := &edit{pod: p}
	proxy, _, err := p.proxy()
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		table, _ := proxy.probers()
		e.restoreProbes(table)
	}
	var mine overrides
	if value, ok := p.meta.Annotations[mesh.Overrides]; ok {
		if err := json.Unmarshal([]byte(value), &mine); err != nil {
			return nil, annotationRefusal(mesh.Overrides, value, "not the JSON that injection writes: "+cut(err.Error()))
		}
	}
	containerName := func(c container) string { return c.Name }
	takeOff(e, "/spec/initContainers", p.spec.InitContainers, containerName, r.InitContainers, mine.InitContainers)
	takeOff(e, "/spec/containers", p.spec.Containers, containerName, r.Containers, mine.Containers)
	namedName := func(n named) string { return n.Name }
	takeOff(e, "/spec/volumes", p.spec.Volumes, namedName, r.Volumes, nil)
	takeOff(e, "/spec/imagePullSecrets", p.spec.ImagePullSecrets, namedName, r.ImagePullSecrets, nil)
	for _, name := range r.Labels {
		if _, ok := p.meta.Labels[name]; ok {
			e.remove("/metadata/labels" + pointer(name))
		}
	}
	e.restoreAnnotations(r, proxy)
	return e.ops, errors.Join(e.errs...)
}

// takeOff removes the elements of a list that are named, last first, and puts others at
// its end. A list of which nothing is left goes as a whole.
func takeOff[T any](e *edit, list string, have []T, name func(T) string, off []string, back []json.RawMessage) {
	gone := 0
	for i, element := range slices.Backward(have) {
		if slices.Contains(off, name(element)) {
			e.remove(list + "/" + strconv.Itoa(i))
			gone++
		}
	}
	left := len(have) - gone
	switch {
	case left == 0 && len(back) == 0 && gone > 0:
		e.remove(list)
	default:
		e.insert(list, left, left, back)
	}
}

// restoreProbes gives the application its probes back, named ports as numbers.
func (e *edit) restoreProbes(table map[string]prober) {
	e.pod.containers(func(list string, i int, c *container) {
		for _, a := range c.asks() {
			was, known := table[a.path]
			if !known || a.how.HTTPGet == nil || a.how.HTTPGet.Path != a.path {
				continue
			}
			at := "/spec/" + list + "/" + strconv.Itoa(i) + a.field
			switch {
			case was.HTTPGet != nil:
				e.restoreHTTP(at+"/httpGet", was.HTTPGet)
			case was.TCPSocket != nil:
				e.remove(at + "/httpGet")
				e.put(at+"/tcpSocket", was.TCPSocket)
			case was.GRPC != nil:
				e.remove(at + "/httpGet")
				e.put(at+"/grpc", was.GRPC)
			}
		}
	})
}

func (e *edit) restoreHTTP(at string, was *corev1.HTTPGetAction) {
	if was.Path == "" {
		e.remove(at + "/path")
	} else {
		e.do("replace", at+"/path", was.Path)
	}
	e.do("replace", at+"/port", intstr.FromInt32(was.Port.IntVal))
	if was.Scheme == corev1.URISchemeHTTPS {
		e.do("replace", at+"/scheme", was.Scheme)
	}
}

// restoreAnnotations takes off what injection wrote, and gives the pod its own words
// about Prometheus back.
func (e *edit) restoreAnnotations(r record, proxy *proxyEnvironment) {
	have := e.pod.meta.Annotations
	gone := append([]string{mesh.Status}, r.Annotations...)
	if _, ok := have[mesh.Overrides]; ok {
		gone = append(gone, mesh.Overrides)
	}
	back := map[string]string{}
	if proxy != nil {
		var s scrape
		if value, i := proxy.variable(mesh.PrometheusEnv); i >= 0 && json.Unmarshal([]byte(strings.ReplaceAll(value, "$$(", "$(")), &s) == nil {
			for name, value := range map[string]string{mesh.PrometheusScrape: s.Scrape, mesh.PrometheusPort: s.Port, mesh.PrometheusPath: s.Path} {
				if value != "" {
					back[name] = value
				} else {
					gone = append(gone, name)
				}
			}
		}
	}
	slices.Sort(gone)
	for _, name := range slices.Compact(gone) {
		_, returns := back[name]
		if _, ok := have[name]; ok && !returns {
			e.remove("/metadata/annotations" + pointer(name))
		}
	}
	for _, name := range []string{mesh.PrometheusScrape, mesh.PrometheusPort, mesh.PrometheusPath} {
		if value, ok := back[name]; ok && have[name] != value {
			e.put("/metadata/annotations"+pointer(name), value)
		}
	}
}

// Uninject returns what takes an injected sidecar off a pod. It needs the record that
// injection left, and nothing else: any revision's sidecar comes off.
func Uninject(pod *Pod) ([]Operation, error) {
	value, ok := pod.meta.Annotations[mesh.Status]
	if !ok {
		return nil, errors.New("the pod has no sidecar: annotation " + mesh.Status + " is missing")
	}
	var r record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return nil, annotationRefusal(mesh.Status, value, "not the JSON that injection writes: "+cut(strings.TrimPrefix(err.Error(), "json: ")))
	}
	return pod.uninject(r)
}

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
