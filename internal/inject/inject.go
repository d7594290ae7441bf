// Package inject decides whether a pod gets the sidecar and says, as a JSON
// patch, what changes then.
//
// Both are pure: [Decide] and [Edit] take a parsed pod, the [Situation] it is in and
// checked [Settings], and touch nothing else, so that the webhook ([Injector]) and the
// command line give one answer. The patch names positions, in a fixed order, and only
// what Garrison owns: fields that this build does not know survive, equal pods give
// equal bytes, and a pod that was injected before gets an empty patch.
//
// It believes nothing that a pod says of itself. A record of an earlier injection
// counts as far as the pod's containers bear it out (record.go); what a pod asks for
// counts as far as the operator trusts its namespace (trust.go); what is left of the
// capture's holes is listed. It refuses, naming the field, what would be silently
// wrong. It calls no API and keeps no state.
//
// Start reading at [Edit]; options.go has what pods may ask for, sidecar.go what they
// get, probes.go the only part that is not plain addition.
package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Situation is what an injection depends on beside the pod and the settings.
type Situation struct {
	Namespace mesh.Namespace
	Older     []mesh.Node // the cluster's nodes below [NativeMinor]
	Variables []Variable  // for the proxy, from the webhook's path
}

// Variable is an environment variable of the proxy.
type Variable struct{ Name, Value string }

// Injection is what becomes of a pod.
type Injection struct {
	Ops      []Operation // none where the sidecar is there already
	Hash     string      // of the effective configuration
	Native   bool        // whether the sidecar is an init container that keeps running
	Why      string      // native or not
	Again    bool        // the pod had been injected before
	Holes    []Hole      // what the pod is granted at the cost of the capture
	Warnings []string    // for the pod's author
}

// edits make an injected pod, in this order. Probes come before containers: they are
// found by their containers' positions, which addContainers then shifts. The record
// comes last, since it lists what the others did.
var edits = []func(*edit){
	takeOverrides, checkPod, chooseKind, (*edit).granted, (*edit).rights, (*edit).tlsMode, moveProbes, mergeMetrics,
	addContainers, addVolumes, addPullSecrets, addLabels, applyOverlays,
	annotateOverrides, addRecord,
}

// Edit returns what injects the sidecar into a pod. The error is a [*Refusal], or
// several joined.
func Edit(pod *Pod, at Situation, s Settings) (Injection, error) {
	if _, ok := pod.meta.Annotations[mesh.Status]; ok {
		return reinject(pod, at, s)
	}
	return inject(pod, at, s)
}

// inject adds the sidecar to a pod that has none.
func inject(pod *Pod, at Situation, s Settings) (Injection, error) {
	e, err := newEdit(pod, at, s)
	if err != nil {
		return Injection{}, err
	}
	for _, do := range edits {
		if do(e); len(e.errs) > 0 {
			return Injection{}, errors.Join(e.errs...)
		}
	}
	e.advise()
	return Injection{Ops: e.ops, Hash: e.hash(), Native: e.native, Why: e.why, Holes: e.holes, Warnings: e.warnings}, nil
}

// edit is one injection under way.
type edit struct {
	pod      *Pod // its lists of containers without those that overrides holds
	ns       mesh.Namespace
	at       Situation
	settings Settings
	options  options
	chosen   []overlay

	overrides   overrides
	native      bool
	why         string
	sidecar     sidecar
	probers     map[string]prober // what the agent must know of the moved probes, by path
	scrape      *scrape           // what it must know of the application's metrics; nil: they are not merged
	record      record
	annotations []member // to be written

	ops      []Operation
	holes    []Hole
	warnings []string
	errs     []error
}

func newEdit(pod *Pod, at Situation, s Settings) (*edit, error) {
	o, err := parseOptions(pod, at.Namespace, s)
	if err != nil {
		return nil, err
	}
	if pod.hasResources() && !o.ownResources { // the sidecar takes its part of the pod's
		o.resources, o.custom = resources{}, true
	}
	own := *pod
	e := &edit{pod: &own, ns: at.Namespace, at: at, settings: s, options: o}
	if e.chosen, err = s.overlaysFor(o.templates); err != nil {
		from := OnPod
		if _, ok := pod.meta.Annotations[mesh.Templates]; !ok {
			from = OnNamespace
		}
		return nil, &Refusal{Reason: BadAnnotation, Field: annotationAt(mesh.Templates, from, at.Namespace.Name), Problem: err.Error()}
	}
	return e, nil
}

// warn tells the pod's author something. The first few are enough to begin with.
func (e *edit) warn(format string, args ...any) {
	if len(e.warnings) < maxWarnings {
		e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
	}
}

// maxWarnings bounds how many warnings one pod is worth.
const maxWarnings = 16

// fail keeps an error; the edit under way is the last.
func (e *edit) fail(err error) { e.errs = append(e.errs, err) }

// refuse keeps a refusal. What strangers write could be worth any number.
func (e *edit) refuse(reason Reason, field, problem string, args ...any) {
	if len(e.errs) == maxRefusals {
		return
	}
	e.fail(&Refusal{Reason: reason, Field: field, Problem: fmt.Sprintf(problem, args...)})
}

// do appends an operation.
func (e *edit) do(op, path string, value any) {
	e.ops = append(e.ops, Operation{Op: op, Path: path, Value: e.raw(value)})
}

// raw returns a value as JSON. What has been rendered before stays as it is.
func (e *edit) raw(value any) json.RawMessage {
	if raw, ok := value.(json.RawMessage); ok {
		return raw
	}
	raw, err := json.Marshal(value)
	if err != nil {
		e.fail(err)
	}
	return raw
}

// put sets a member of an object, whether or not it is there.
func (e *edit) put(path string, value any) { e.do("add", path, value) }

func (e *edit) remove(path string) { e.ops = append(e.ops, Operation{Op: "remove", Path: path}) }

// insert puts values into a list of length have, at position at. A list without
// elements may be absent or null, and is written whole.
func (e *edit) insert(list string, have, at int, values []json.RawMessage) {
	if len(values) == 0 {
		return
	}
	if have == 0 {
		e.put(list, jsonList(values))
		return
	}
	for i, v := range values {
		e.put(list+"/"+strconv.Itoa(at+i), v)
	}
}

func jsonList(values []json.RawMessage) json.RawMessage {
	size := 2
	for _, v := range values {
		size += len(v) + 1
	}
	list := append(make(json.RawMessage, 0, size), '[')
	for i, v := range values {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, v...)
	}
	return append(list, ']')
}

// chooseKind renders the sidecar as the kind of container that the pod can have.
func chooseKind(e *edit) {
	var err error
	if e.native, e.why, err = isNative(e.pod, e.options, e.at.Older); err != nil {
		e.fail(err)
		return
	}
	if e.sidecar, err = e.settings.sidecar(e.options, e.native); err != nil {
		e.fail(err)
	}
}

// redirectPlace is where istio-init stands beside a proxy that is a plain container.
// Behind the pod's own init containers, whose connections would otherwise lead to a
// proxy that does not run yet; before them where nothing may leave uncaptured.
func (e *edit) redirectPlace() int {
	if strict(e.ns) {
		return 0
	}
	return len(e.pod.spec.InitContainers)
}

// addContainers puts the containers where Istio has them. A native sidecar runs before
// the pod's own init containers, which so have a proxy that works behind the capture.
// Otherwise the capture begins after them, and the proxy is the last of the containers,
// or the first if the application is to wait for it.
func addContainers(e *edit) {
	env, err := e.env()
	if err != nil {
		e.fail(err)
		return
	}
	plain, err := e.sidecar.proxy.with(env)
	if err != nil {
		e.fail(err)
		return
	}
	proxy := e.override(mesh.ProxyContainer, plain)
	var redirect []json.RawMessage
	if raw := e.override(mesh.InitContainer, e.sidecar.redirect); raw != nil {
		redirect = append(redirect, raw)
		e.record.InitContainers = append(e.record.InitContainers, mesh.InitContainer)
	}
	e.preflight(append(redirect, proxy))
	inits, containers := len(e.pod.spec.InitContainers), len(e.pod.spec.Containers)
	if e.native {
		e.record.InitContainers = append(e.record.InitContainers, mesh.ProxyContainer)
		e.insert("/spec/initContainers", inits, 0, append(redirect, proxy))
		return
	}
	e.record.Containers = append(e.record.Containers, mesh.ProxyContainer)
	e.insert("/spec/initContainers", inits, e.redirectPlace(), redirect)
	place := containers
	if e.options.config.hold {
		place = 0
	}
	e.insert("/spec/containers", containers, place, []json.RawMessage{proxy})
}

func addVolumes(e *edit) {
	for i, v := range e.pod.spec.Volumes {
		for _, added := range e.options.volumes {
			if added.Name == v.Name {
				e.refuse(ReservedName, fmt.Sprintf("spec.volumes[%d].name", i), "%s is also in annotation %s", quote(v.Name), mesh.UserVolume)
			}
		}
	}
	for _, v := range e.sidecar.volumes {
		e.record.Volumes = append(e.record.Volumes, v.Name)
	}
	have := len(e.pod.spec.Volumes)
	e.insert("/spec/volumes", have, have, e.sidecar.rendered)
}

func addPullSecrets(e *edit) {
	var missing []json.RawMessage
	for _, name := range e.settings.pullSecrets {
		if !slices.Contains(e.pod.spec.ImagePullSecrets, named{name}) {
			missing = append(missing, e.raw(named{name}))
			e.record.ImagePullSecrets = append(e.record.ImagePullSecrets, name)
		}
	}
	have := len(e.pod.spec.ImagePullSecrets)
	e.insert("/spec/imagePullSecrets", have, have, missing)
}

// member is one entry of a map of strings, to be written where it differs.
type member struct{ key, value string }

// annotate has an annotation written at the end.
func (e *edit) annotate(name, value string) {
	e.annotations = append(e.annotations, member{name, value})
}

// assign writes members of a map of strings in the order given, and returns the names
// of those that were not there.
func (e *edit) assign(path string, have map[string]string, members []member) (added []string) {
	if len(have) == 0 && len(members) > 0 { // absent, null or empty: the same to Kubernetes
		e.put(path, struct{}{})
	}
	for _, m := range members {
		old, ok := have[m.key]
		if !ok {
			added = append(added, m.key)
		}
		if !ok || old != m.value {
			e.put(path+pointer(m.key), m.value)
		}
	}
	return added
}

// addLabels tells others what the pod is and that it speaks mutual TLS. What the
// pod's author wrote is kept.
func addLabels(e *edit) {
	have := e.pod.meta.Labels
	var add []member
	for _, m := range []member{
		{mesh.TLSModeLabel, mesh.TLSModeIstio},
		{mesh.CanonicalName, e.pod.canonicalName()},
		{mesh.CanonicalRevision, e.pod.canonicalRevision()},
		{mesh.NetworkLabel, e.network()},
	} {
		if _, ok := have[m.key]; !ok && m.value != "" {
			add = append(add, m)
		}
	}
	e.record.Labels = e.assign("/metadata/labels", have, add)
}

// network is the one that the webhook's path names.
func (e *edit) network() string {
	for _, v := range e.at.Variables {
		if v.Name == mesh.NetworkEnv {
			return labelValue(v.Value)
		}
	}
	return ""
}

// applicationContainer returns the name of the first container that is not ours.
func (p *Pod) applicationContainer() string {
	if len(p.spec.Containers) == 0 {
		return mesh.ProxyContainer
	}
	return p.spec.Containers[0].Name
}

// addRecord leaves what was done, and kubectl's default containers, which without it
// would be whatever is listed first.
func addRecord(e *edit) {
	have := e.pod.meta.Annotations
	e.annotate(mesh.RevisionLabel, e.settings.revision)
	for _, name := range []string{mesh.DefaultContainer, mesh.DefaultLogsContainer} {
		if _, ok := have[name]; !ok {
			e.annotate(name, e.pod.applicationContainer())
		}
	}
	e.record.Revision, e.record.Hash = e.settings.revision, e.hash()
	for _, m := range e.annotations {
		if _, ok := have[m.key]; !ok && !isTrio(m.key) { // what that was before, the proxy's environment knows
			e.record.Annotations = append(e.record.Annotations, m.key)
		}
	}
	status := member{mesh.Status, string(e.raw(e.record))}
	e.assign("/metadata/annotations", have, append([]member{status}, e.annotations...))
}
