// Package inject decides whether a pod gets the sidecar and says, as a JSON
// patch, what changes then.
//
// Both are pure: [Decide] and [Edit] take a parsed pod and checked [Settings] and
// touch nothing else, so that the webhook ([Injector]) and the command line give
// one answer. The patch names positions, in a fixed order, and only what Garrison
// owns: fields that this build does not know survive, equal pods give equal
// bytes, and a pod that was injected before gets an empty patch.
//
// It refuses, naming the field, what would be silently wrong: annotations that
// cannot be parsed, names that belong to the sidecar, containers that run as the
// proxy's user and so would escape capture. It calls no API and keeps no state.
//
// Start reading at [Edit]; probes.go holds the only part that is not plain
// addition.
package inject

import (
	"encoding/json"
	"strconv"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// edits make an injected pod, in this order. Probes come first: they are found by
// their containers' positions, which addContainers then shifts.
var edits = []func(*edit){moveProbes, addContainers, addVolumes, addLabels, addAnnotations}

// Edit returns the operations that inject the sidecar into a pod, none when it is
// there already. The error is a [*Refusal], or several joined.
func Edit(pod *Pod, s Settings) ([]Operation, error) {
	if injected, err := pod.injected(); err != nil || injected {
		return nil, err
	}
	o, err := parseOptions(pod.meta.Annotations, s.resources)
	if err != nil {
		return nil, err
	}
	if err := pod.check(); err != nil {
		return nil, err
	}
	e := edit{pod: pod, settings: s, options: o}
	for _, do := range edits {
		do(&e)
	}
	return e.ops, e.err
}

// edit is one injection under way.
type edit struct {
	pod      *Pod
	settings Settings
	options  options
	probers  map[string]prober // what the agent must know of the moved probes, by path
	ops      []Operation
	err      error // the first value that JSON could not express; ends as Edit's error
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
	if err != nil && e.err == nil {
		e.err = err
	}
	return raw
}

// put sets a member of an object, whether or not it is there.
func (e *edit) put(path string, value any) { e.do("add", path, value) }

func (e *edit) remove(path string) { e.ops = append(e.ops, Operation{Op: "remove", Path: path}) }

// insert puts values into a list of length have, at position at. A list without
// elements may be absent or null, and is written whole.
func (e *edit) insert(list string, have, at int, values []json.RawMessage) {
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

// addContainers puts the redirection first and the proxy second. Pods that ask for
// nothing special get both as rendered with the settings.
func addContainers(e *edit) {
	init, proxy := e.settings.rendered.redirect, e.settings.rendered.proxy
	if e.options.ownResources {
		init = e.raw(redirectContainer(e.settings, e.options.resources))
	}
	if e.options.ownResources || len(e.probers) > 0 {
		proxy = e.raw(proxyContainer(e.settings, e.options.resources, e.probers))
	}
	e.insert("/spec/initContainers", len(e.pod.spec.InitContainers), 0, []json.RawMessage{init, proxy})
}

func addVolumes(e *edit) {
	have := len(e.pod.spec.Volumes)
	e.insert("/spec/volumes", have, have, e.settings.rendered.volumes)
}

// member is one entry of a map of strings, to be written where it differs.
type member struct{ key, value string }

// assign writes members of a map of strings in the order given.
func (e *edit) assign(path string, have map[string]string, members []member) {
	if len(have) == 0 && len(members) > 0 { // absent, null or empty: the same to Kubernetes
		e.put(path, struct{}{})
	}
	for _, m := range members {
		if old, ok := have[m.key]; !ok || old != m.value {
			e.put(path+pointer(m.key), m.value)
		}
	}
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
	} {
		if _, ok := have[m.key]; !ok && m.value != "" {
			add = append(add, m)
		}
	}
	e.assign("/metadata/labels", have, add)
}

// addAnnotations leaves the record of what was done, and kubectl's default
// container, which without it would be whatever is listed first.
func addAnnotations(e *edit) {
	have := e.pod.meta.Annotations
	add := []member{{mesh.Status, e.settings.rendered.status}, {mesh.RevisionLabel, e.settings.revision}}
	if _, ok := have[mesh.DefaultContainer]; !ok {
		add = append(add, member{mesh.DefaultContainer, e.pod.spec.Containers[0].Name})
	}
	e.assign("/metadata/annotations", have, add)
}
