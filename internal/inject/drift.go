package inject

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// FromPod returns what injection needs to know of a pod that is at hand as a value. It
// is good for [Decide] and [Outdated], not for [Edit], which wants the document.
func FromPod(pod *corev1.Pod) *Pod {
	p := &Pod{
		meta: metadata{
			Name: pod.Name, GenerateName: pod.GenerateName, Namespace: pod.Namespace,
			Labels: pod.Labels, Annotations: pod.Annotations,
		},
		spec: spec{HostNetwork: pod.Spec.HostNetwork, NodeName: pod.Spec.NodeName, NodeSelector: pod.Spec.NodeSelector},
	}
	for _, o := range pod.OwnerReferences {
		p.meta.OwnerReferences = append(p.meta.OwnerReferences, owner{o.Kind, o.Name, o.Controller != nil && *o.Controller})
	}
	if pod.Spec.OS != nil {
		p.spec.OS.Name = string(pod.Spec.OS.Name)
	}
	if pod.Spec.Resources != nil {
		p.spec.Resources = json.RawMessage(`{"set":true}`)
	}
	for _, c := range pod.Spec.InitContainers {
		p.spec.InitContainers = append(p.spec.InitContainers, container{Name: c.Name})
	}
	for _, c := range pod.Spec.Containers {
		p.spec.Containers = append(p.spec.Containers, container{Name: c.Name})
	}
	return p
}

// Has reports whether the pod has the sidecar's proxy, of whichever kind.
func (p *Pod) Has() bool {
	proxy := func(c container) bool { return c.Name == mesh.ProxyContainer }
	return slices.ContainsFunc(p.spec.InitContainers, proxy) || slices.ContainsFunc(p.spec.Containers, proxy)
}

// Outdated reports whether today's settings would give a pod another sidecar than it
// has. Which kind of container that is depends on nodes more than on settings, and is
// left as it is. An error says why today's settings would refuse the pod.
func Outdated(pod *Pod, ns mesh.Namespace, s Settings) (bool, error) {
	prior, err := pod.record()
	if err != nil {
		return true, err
	}
	e, err := newEdit(pod, Situation{Namespace: ns}, s)
	if err != nil {
		return true, err
	}
	if value, ok := pod.meta.Annotations[mesh.Overrides]; ok {
		if err := json.Unmarshal([]byte(value), &e.overrides); err != nil {
			return true, annotationRefusal(mesh.Overrides, value, "not the JSON that injection writes")
		}
	}
	takeUser(e)
	e.native = slices.Contains(prior.InitContainers, mesh.ProxyContainer)
	if e.sidecar, err = s.sidecar(e.options, e.native); err != nil {
		return true, err
	}
	return e.hash() != prior.Hash, nil
}

// Finding is what an audit has to say of a pod that exists.
type Finding struct {
	LeftOut string // why it has no sidecar though its namespace wants one; "" where that is not so
	Meant   bool   // the pod's author, its kind or the operator wants it left out
	Drifted bool   // today's settings would give it another sidecar, or none
}

// Audit looks at a pod that exists. Of one that was left out by nobody's will, the reason
// is one of the past.
func Audit(pod *Pod, ns mesh.Namespace, s Settings) Finding {
	if _, injected := pod.meta.Annotations[mesh.Status]; injected {
		if pod.meta.Annotations[mesh.RevisionLabel] != s.revision && !s.wants(ns) {
			return Finding{} // another revision's, which looks itself
		}
		old, _ := Outdated(pod, ns, s) // an error is a reason why it is
		return Finding{Drifted: old}
	}
	if pod.Has() || !s.wants(ns) {
		return Finding{}
	}
	switch d := decide(pod, ns, s); {
	case d.Reason == MirrorPod || d.Reason == IgnoredNamespace:
		return Finding{}
	case d.Inject:
		return Finding{LeftOut: "it was made before the namespace was labelled, or while the webhook was not there; restart its workload"}
	default:
		return Finding{LeftOut: d.Why, Meant: true}
	}
}

// wants reports whether a namespace asks for the sidecars of this revision.
func (s Settings) wants(ns mesh.Namespace) bool {
	if enabled, said := ns.Labels[mesh.InjectionLabel]; said {
		return enabled == "enabled" && s.revision == mesh.DefaultRevision
	}
	return ns.Labels[mesh.RevisionLabel] == s.revision
}
