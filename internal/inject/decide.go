package inject

import (
	"slices"
	"strings"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Decision is whether a pod gets the sidecar, and why.
type Decision struct {
	Inject bool
	Reason Reason
}

// mirrorAnnotation marks the API server's image of a pod that a kubelet runs from
// a file.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// Decide says whether a pod that the webhook's selectors have let through is to
// be injected into a namespace, "" for the pod's own. The error is a [*Refusal]:
// the pod does not say clearly what it wants.
//
// The order is Istio's: the host's network, namespaces of the system, the pod's
// label, its annotation, and by default yes, since the selectors chose it.
func Decide(pod *Pod, namespace string) (Decision, error) {
	if namespace == "" {
		namespace = pod.meta.Namespace
	}
	if pod.spec.HostNetwork {
		return Decision{Reason: HostNetwork}, nil
	}
	if _, mirror := pod.meta.Annotations[mirrorAnnotation]; mirror {
		return Decision{Reason: MirrorPod}, nil
	}
	switch namespace {
	case "kube-system", "kube-public", "kube-node-lease", "local-path-storage", mesh.SystemNamespace:
		return Decision{Reason: IgnoredNamespace}, nil
	}
	yes := Decision{Inject: true, Reason: Selected}
	if value, ok := pod.meta.Labels[mesh.InjectLabel]; ok {
		switch value {
		case "true":
			yes.Reason = LabelTrue
		case "false":
			return Decision{Reason: LabelFalse}, nil
		case "": // says nothing, and hides the annotation, as in Istio
		default:
			return Decision{}, &Refusal{Reason: BadLabel, Field: "metadata.labels[" + mesh.InjectLabel + "]",
				Problem: quote(value) + " is neither true nor false"}
		}
	} else if value, ok := pod.meta.Annotations[mesh.InjectLabel]; ok && value != "" {
		var o options
		if err := parsers[mesh.InjectLabel](&o, value); err != nil {
			return Decision{}, annotationRefusal(mesh.InjectLabel, value, err.Error())
		}
		if !o.inject {
			return Decision{Reason: AnnotationFalse}, nil
		}
		yes.Reason = AnnotationTrue
	}
	injected, err := pod.injected()
	if err != nil {
		return Decision{}, err
	}
	if injected {
		return Decision{Reason: AlreadyInjected}, nil
	}
	return yes, nil
}

// Ignored returns the pod's annotations that belong to Istio's vocabulary for
// sidecars but that Garrison does not honour, for the user's eye: an exclusion
// that is silently not made is found out the hard way.
func Ignored(pod *Pod) []string {
	var names []string
	for name := range pod.meta.Annotations {
		domain, _, _ := strings.Cut(name, "/")
		if !strings.HasSuffix(domain, "sidecar.istio.io") && domain != "proxy.istio.io" && domain != "inject.istio.io" {
			continue
		}
		if !slices.ContainsFunc(mesh.Annotations(), func(a mesh.Annotation) bool { return a.Name == name }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
