package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
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

// Bounds of what an annotation says of an earlier injection: more than it ever adds, with
// all that a pod and overlays can ask for.
const (
	maxRecorded   = 1024
	maxOverridden = 16
)

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
		return r, falseStatus(statusField,
			"not written by Garrison, which always says of which configuration: was the pod injected by another injector, or its record copied?")
	}
	for _, list := range [][]string{r.InitContainers, r.Containers, r.Volumes, r.ImagePullSecrets, r.Labels, r.Annotations} {
		if len(list) > maxRecorded {
			return r, falseStatus(statusField, fmt.Sprintf("it lists %d of a kind, more than the %d that injection could add", len(list), maxRecorded))
		}
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
	return &Refusal{Reason: FalseStatus, Field: field, Problem: problem +
		"; `garrison uninject` takes an old sidecar off a manifest, or remove the annotation and the containers that it names"}
}

// reinject answers for a pod that carries a record of injection. It makes the sidecar
// anew, out of what the pod would be without it: where that was made of another
// configuration or for another network, or others have put init containers before it, it
// takes the other's place; where it was made of this one, the pod's containers must be
// what is claimed of them, and only probes that came later are still to be moved.
func reinject(pod *Pod, at Situation, s Settings) (Injection, error) {
	prior, err := pod.record()
	if err != nil {
		return Injection{}, err
	}
	for _, name := range slices.Concat(prior.InitContainers, prior.Containers) {
		if !own(name) && !s.addsContainer(name) {
			return Injection{}, notAdded(name)
		}
	}
	strip, err := pod.uninject(prior)
	if err != nil {
		return Injection{}, err
	}
	raw, err := Apply(pod.raw, strip)
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
	made, err := Apply(raw, again.Ops)
	if err != nil {
		return Injection{}, err
	}
	would, err := ParsePod(made)
	if err != nil {
		return Injection{}, err
	}
	moved, err := elsewhereMade(pod, would, at.Variables)
	if err != nil {
		return Injection{}, err
	}
	if again.Hash != prior.Hash || moved || !slices.Equal(pod.beforeCapture(), would.beforeCapture()) {
		again.Ops = append(strip, again.Ops...)
		return again, nil
	}
	now, err := would.record()
	if err != nil {
		return Injection{}, err
	}
	for _, list := range [][2][]string{{prior.InitContainers, now.InitContainers}, {prior.Containers, now.Containers}} {
		for _, name := range list[0] {
			if !slices.Contains(list[1], name) {
				return Injection{}, notAdded(name)
			}
		}
	}
	added, err := bearsOut(pod.raw, made, now)
	if err != nil {
		return Injection{}, err
	}
	e := &edit{ns: at.Namespace, settings: s, holes: again.Holes}
	for _, a := range added {
		e.grantField(a.container, a.field, "more than injection wrote")
	}
	again.Holes = e.holes
	if len(e.errs) > 0 {
		return Injection{}, errors.Join(e.errs...)
	}
	again.Ops, err = pod.newcomers(at, s)
	return again, err
}

// elsewhereMade reports whether the sidecar was made for another cluster or network, which
// are no part of the configuration's hash.
func elsewhereMade(pod, would *Pod, variables []Variable) (bool, error) {
	is, _, err := pod.proxy()
	if err != nil || is == nil {
		return false, err
	}
	wants, _, err := would.proxy()
	if err != nil || wants == nil {
		return false, err
	}
	differs := func(name string) bool {
		has, _ := is.variable(name)
		value, _ := wants.variable(name)
		return has != value
	}
	return differs(mesh.ClusterEnv) || differs(mesh.NetworkEnv) ||
		slices.ContainsFunc(variables, func(v Variable) bool { return differs(v.Name) }), nil
}

// notAdded refuses a record of a container that is no part of injection.
func notAdded(name string) *Refusal {
	return falseStatus(statusField, fmt.Sprintf("it lists container %s, which injection does not add", quote(name)))
}

// beforeCapture names the init containers that start before the sidecar does, and the
// sidecar's.
func (p *Pod) beforeCapture() []string {
	var names, until []string
	for _, c := range p.spec.InitContainers {
		if names = append(names, c.Name); own(c.Name) {
			until = names
		}
	}
	return until
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

// proxyEnvironment is what is read of an injected proxy.
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
