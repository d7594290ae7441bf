package inject

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// NativeMinor is the minor version of Kubernetes from which on init containers may
// keep running without a feature gate that somebody could have switched off.
const NativeMinor = 33

// isNative says whether the pod gets the sidecar as an init container that keeps
// running, and why. Nodes older than [NativeMinor] matter where the pod may land on
// them; so does a pod that has nothing but the proxy, which would have no container left.
func isNative(pod *Pod, o options, older []mesh.Node) (native bool, why string, err error) {
	if len(pod.spec.Containers) == 0 {
		return false, "the pod has no other container", nil
	}
	switch o.native {
	case nativeAlways:
		return true, mesh.NativeSidecar + " is true", nil
	case nativeNever:
		return false, mesh.NativeSidecar + " is false", nil
	}
	if len(older) == 0 {
		return true, fmt.Sprintf("every node has Kubernetes 1.%d or newer", NativeMinor), nil
	}
	p, err := pod.scheduled()
	if err != nil {
		return false, "", err
	}
	for _, node := range older {
		if lands(p, node) {
			return false, fmt.Sprintf("the pod may land on node %s, which has Kubernetes 1.%d", node.Name, node.Minor), nil
		}
	}
	return true, fmt.Sprintf("every node that the pod may land on has Kubernetes 1.%d or newer", NativeMinor), nil
}

// scheduled returns what of a pod decides where it runs.
func (p *Pod) scheduled() (*corev1.Pod, error) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: p.spec.NodeName, NodeSelector: p.spec.NodeSelector}}
	for _, part := range []struct {
		field string
		raw   json.RawMessage
		into  any
	}{
		{"spec.affinity", p.spec.Affinity, &pod.Spec.Affinity},
		{"spec.tolerations", p.spec.Tolerations, &pod.Spec.Tolerations},
	} {
		if len(part.raw) == 0 {
			continue
		}
		if err := json.Unmarshal(part.raw, part.into); err != nil {
			return nil, &Refusal{Reason: Malformed, Field: part.field, Problem: cut(err.Error())}
		}
	}
	return pod, nil
}

// lands reports whether the scheduler could put the pod on the node, room left aside.
func lands(pod *corev1.Pod, node mesh.Node) bool {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName == node.Name
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels}}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(n); err == nil && !ok {
		return false // a term that cannot be read is the API server's to refuse
	}
	var taints []corev1.Taint
	for _, t := range node.Taints {
		taints = append(taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	_, kept := scheduling.FindMatchingUntoleratedTaint(klog.Background(), taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, true)
	return !kept
}
