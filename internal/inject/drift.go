package inject

import (
	"encoding/json"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
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

type webhooks = []*admissionregistrationv1.MutatingWebhookConfiguration

// Audit looks at a pod that exists with the eyes of one revision, which is shown pods by
// these webhooks. Of a pod that was left out by nobody's will, the reason is one of the
// past.
func Audit(pod *Pod, ns mesh.Namespace, s Settings, shown webhooks) Finding {
	if _, injected := pod.meta.Annotations[mesh.Status]; injected {
		if pod.meta.Annotations[mesh.RevisionLabel] != s.revision && !wants(ns, shown) {
			return Finding{} // another revision's, which looks itself
		}
		old, _ := Outdated(pod, ns, s) // an error is a reason why it is
		return Finding{Drifted: old}
	}
	if pod.Has() || !wants(ns, shown) {
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

// ShownBy returns the webhooks by which a revision is shown pods, of those there are that
// it serves: its own and its tags'. Its own counts also while it is missing, which is when
// pods are left out.
func ShownBy(revision string, there webhooks) webhooks {
	own, err := Webhook{Revision: revision}.Configuration()
	if err != nil { // no webhook can be that revision's
		return there
	}
	if slices.ContainsFunc(there, func(c *admissionregistrationv1.MutatingWebhookConfiguration) bool { return c.Name == own.Name }) {
		return there
	}
	return append(webhooks{own}, there...)
}

// wants reports whether a namespace asks for sidecars by these webhooks: whether they show
// pods of it that say nothing themselves.
func wants(ns mesh.Namespace, shown webhooks) bool {
	holds := func(admissionregistrationv1.MatchCondition) (bool, error) { return true, nil } // what one says of a pod, decide says too
	for _, c := range shown {
		if slices.ContainsFunc(Select(c, ns, nil, holds), func(s Selection) bool { return s.Called }) {
			return true
		}
	}
	return false
}
