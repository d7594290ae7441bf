package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// growth is a kind of pod that comes in several sizes.
type growth struct {
	of       string
	pod      func(n int) *corev1.Pod
	sizes    []int
	from, to int // the sizes that are set against each other
}

func (g growth) name(n int) string { return g.of + "-" + strconv.Itoa(n) }

func growths() []growth {
	return []growth{
		{"variables", podWithVariables, []int{500, 1000, 2000, 4000}, 1000, 4000},
		{"containers", podOfContainers, []int{1, 5, 20, 50}, 5, 50},
	}
}

// otherReviews returns those that are not in the mix: of pods that ask for something
// besides, and of pods that grow.
func otherReviews() ([]review, error) {
	type named struct {
		name string
		pod  *corev1.Pod
	}
	pods := []named{{"overlay", overlayPod()}, {"own-proxy", ownProxyPod()}}
	for _, g := range growths() {
		for _, n := range g.sizes {
			pods = append(pods, named{g.name(n), g.pod(n)})
		}
	}
	all := make([]review, 0, len(pods))
	for _, p := range pods {
		r, err := newReview(p.name, p.pod)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", p.name, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// injectedReview returns the review of a pod that a handler has injected, as the API
// server sends it when it asks again: with the members in the order of its types.
func injectedReview(h http.Handler, r review) (review, error) {
	first, err := newHandled(h, r)
	if err != nil {
		return review{}, err
	}
	answer, err := first.call()
	if err != nil {
		return review{}, fmt.Errorf("pod %s: %w", r.name, err)
	}
	patch, err := readPatch(answer)
	if err != nil {
		return review{}, fmt.Errorf("pod %s: %w", r.name, err)
	}
	steps, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return review{}, fmt.Errorf("patch: %w", err)
	}
	object, err := steps.Apply(r.pod)
	if err != nil {
		return review{}, fmt.Errorf("patch: %w", err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(object, &pod); err != nil {
		return review{}, err
	}
	return newReview("again", &pod)
}

// benchOverlay is the overlay that podOverlay asks for, as the operator's ConfigMap
// has it.
const (
	benchOverlay     = "bench"
	benchOverlayText = `
metadata:
  labels: {team: shop}
spec:
  containers:
  - name: istio-proxy
    env:
    - {name: LOG_LEVEL, value: debug}
    resources:
      limits: {memory: 1Gi}
  volumes:
  - name: scratch
    emptyDir: {}
`
)

// podWithVariables has one container of n variables.
func podWithVariables(n int) *corev1.Pod {
	return newPod("shop", corev1.PodSpec{Containers: []corev1.Container{container("shop", n)}})
}

// podOfContainers has n containers as the large pod has them.
func podOfContainers(n int) *corev1.Pod {
	names := make([]string, n)
	for i := range names {
		names[i] = "part-" + strconv.Itoa(i)
	}
	return probedPod(names...)
}

// overlayPod is the small pod with an overlay over its sidecar.
func overlayPod() *corev1.Pod {
	pod := simplePod()
	pod.Annotations = map[string]string{mesh.Templates: "sidecar," + benchOverlay}
	return pod
}

// ownProxyPod is the small pod with fields of the sidecar that its author chose.
func ownProxyPod() *corev1.Pod {
	pod := simplePod()
	pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
		Name: mesh.ProxyContainer, Image: "auto",
		Env: []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "debug"}},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
			corev1.ResourceMemory: resource.MustParse("1Gi"),
		}},
	})
	return pod
}
