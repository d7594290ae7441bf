package inject

import (
	"fmt"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Decision is whether a pod gets the sidecar, and why.
type Decision struct {
	Inject   bool
	Reason   Reason
	Why      string   // the same in a sentence
	Warnings []string // for the pod's author
}

// mirrorAnnotation marks the API server's image of a pod that a kubelet runs from
// a file.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// osLabels name a node's operating system in a pod's node selector.
var osLabels = []string{"kubernetes.io/os", "beta.kubernetes.io/os"}

// Decide says whether a pod that the webhook's selectors have let through is to
// be injected into a namespace. The error is a [*Refusal]: the pod asks to be left out
// where nothing may be.
//
// The order is Istio's: the host's network, namespaces of the system, the pod's label,
// its annotation, and where these say nothing the settings' selectors and policy.
func Decide(pod *Pod, ns mesh.Namespace, s Settings) (Decision, error) {
	d := decide(pod, ns, s)
	if d.Inject || !strict(ns) || d.Reason == MirrorPod || d.Reason == IgnoredNamespace {
		return d, nil
	}
	return d, &Refusal{Reason: StrictCapture, Field: "metadata.namespace", Problem: fmt.Sprintf(
		"namespace %s is labelled %s=%s, so every pod in it needs the sidecar, and this one cannot have it: %s",
		quote(ns.Name), mesh.CaptureLabel, mesh.CaptureStrict, d.Why)}
}

func decide(pod *Pod, ns mesh.Namespace, s Settings) Decision {
	no := func(reason Reason, why string, args ...any) Decision {
		return Decision{Reason: reason, Why: fmt.Sprintf(why, args...)}
	}
	if pod.spec.HostNetwork {
		return no(HostNetwork, "it uses the host's network, where capture would change the node")
	}
	if _, mirror := pod.meta.Annotations[mirrorAnnotation]; mirror {
		return no(MirrorPod, "it is the image of a static pod, which runs already")
	}
	switch ns.Name {
	case "kube-system", "kube-public", "kube-node-lease", "local-path-storage", mesh.SystemNamespace:
		return no(IgnoredNamespace, "namespace %s belongs to the system", ns.Name)
	}
	if pod.windows() {
		return no(Windows, "it runs on Windows")
	}
	d := s.decideByWord(pod)
	if d.Reason == "" {
		warnings := d.Warnings
		d = s.decideByDefault(pod)
		d.Warnings = warnings
	}
	return d
}

func (p *Pod) windows() bool {
	if p.spec.OS.Name != "" {
		return p.spec.OS.Name == "windows"
	}
	for _, label := range osLabels {
		if p.spec.NodeSelector[label] == "windows" {
			return true
		}
	}
	return false
}

// decideByWord goes by what the pod says; without a reason where it says nothing, or
// nothing that can be understood.
func (s Settings) decideByWord(pod *Pod) Decision {
	value, labelled := pod.meta.Labels[mesh.InjectLabel]
	kind, yes, no := "label", LabelTrue, LabelFalse
	if !labelled { // an empty label says nothing, and hides the annotation, as in Istio
		value = pod.meta.Annotations[mesh.InjectLabel]
		kind, yes, no = "annotation", AnnotationTrue, AnnotationFalse
	}
	switch value {
	case "":
		return Decision{}
	case "true":
		return Decision{Inject: true, Reason: yes, Why: fmt.Sprintf("%s %s is true", kind, mesh.InjectLabel)}
	case "false":
		return Decision{Reason: no, Why: fmt.Sprintf("%s %s is false", kind, mesh.InjectLabel)}
	}
	return Decision{Warnings: []string{fmt.Sprintf("%s %s: %s is neither true nor false, so it decides nothing", kind, mesh.InjectLabel, quote(value))}}
}

func (s Settings) decideByDefault(pod *Pod) Decision {
	for i, selector := range s.neverInject {
		if selector.Matches(labels.Set(pod.meta.Labels)) {
			return Decision{Reason: NeverSelected, Why: fmt.Sprintf("neverInject[%d] of the settings selects it: %s", i, selector)}
		}
	}
	for i, selector := range s.alwaysInject {
		if selector.Matches(labels.Set(pod.meta.Labels)) {
			return Decision{Inject: true, Reason: AlwaysSelected, Why: fmt.Sprintf("alwaysInject[%d] of the settings selects it: %s", i, selector)}
		}
	}
	if !s.enabled {
		return Decision{Reason: PolicyDisabled, Why: "it does not ask to be injected, and the policy of the settings is disabled"}
	}
	return Decision{Inject: true, Reason: Selected, Why: "the webhook selects it, and nothing speaks against it"}
}
