package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// livePod is a pod as clusters have them, with all that is not kept.
func livePod() *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "cart-5d4f8c7b9-abcde", UID: "0b0d6a0c-52d4-4b36-b4a5-6c2f7f5f3a11", ResourceVersion: "4711", GenerateName: "cart-5d4f8c7b9-",
			CreationTimestamp: metav1.Unix(1795000000, 0), DeletionTimestamp: &metav1.Time{Time: time.Unix(1795000100, 0)},
			Labels: map[string]string{"app": "cart", "pod-template-hash": "5d4f8c7b9"},
			Annotations: map[string]string{
				"sidecar.istio.io/status": "{}", "prometheus.io/port": "80", "kubernetes.io/config.mirror": "m", "garrison.io/x": "y",
				"kubectl.kubernetes.io/restartedAt": "then", "example.com/blob": strings.Repeat("x", 4096),
			},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "c"},
				{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "cart-5d4f8c7b9", UID: "a7d8f0a2-0d0e-4a37-9d43-2d7d1f0f9b10", Controller: new(true)},
			},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`)}},
		},
		Spec: corev1.PodSpec{
			HostNetwork: true, OS: &corev1.PodOS{Name: corev1.Linux}, NodeName: "n1", NodeSelector: map[string]string{"pool": "a"},
			ServiceAccountName: "cart", Volumes: []corev1.Volume{{Name: "v"}},
			InitContainers: []corev1.Container{{Name: "istio-init", Image: "i"}},
			Containers:     []corev1.Container{{Name: "istio-proxy", Image: "p"}, {Name: "cart", Image: "c"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady}}},
	}
	for i := range 100 {
		pod.Spec.Containers[1].Env = append(pod.Spec.Containers[1].Env, corev1.EnvVar{Name: fmt.Sprint("V", i), Value: strings.Repeat("v", 100)})
	}
	return pod
}

func TestPackPod(t *testing.T) {
	pod := livePod()
	before := pod.DeepCopy()
	obj, err := packPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(before, pod) {
		t.Error("the pod was changed")
	}
	if again, err := packPod(obj); again != obj || err != nil {
		t.Error("packing twice is not packing once")
	}
	packed := obj.(*packedPod)
	if n := len(packed.trimmed); n > 1000 {
		t.Errorf("%d bytes kept, too many for thousands of pods", n)
	}
	got, err := packed.unpack()
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
			Labels: pod.Labels, OwnerReferences: pod.OwnerReferences[1:],
			Annotations: map[string]string{
				"sidecar.istio.io/status": "{}", "prometheus.io/port": "80", "kubernetes.io/config.mirror": "m", "garrison.io/x": "y",
			},
		},
		Spec: corev1.PodSpec{
			HostNetwork: true, OS: &corev1.PodOS{Name: corev1.Linux}, NodeName: "n1", NodeSelector: map[string]string{"pool": "a"},
			InitContainers: []corev1.Container{{Name: "istio-init"}}, Containers: []corev1.Container{{Name: "istio-proxy"}, {Name: "cart"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func testListPods(t *testing.T, l lab) {
	const ns, page, count = "list-of-pods", 5, 12
	l.namespace(t, ns, nil)
	l.account(t, ns, "default")
	for i := range count {
		pod := testPod()
		pod.Name = fmt.Sprintf("p%02d", i)
		if _, err := l.admin.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	api := l.as(t, allow("", "pods", "list"))
	// As an informer asks at first, which no API server divides.
	list, err := listTrimmed(t.Context(), metav1.ListOptions{ResourceVersion: "0", Limit: 500}, func(ctx context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
		pages++
		if o.Limit != podPage {
			t.Errorf("asked for %d pods", o.Limit)
		}
		o.Limit = page
		return api.Client.CoreV1().Pods(ns).List(ctx, o)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, pod := range list.Items {
		if pod.Name != fmt.Sprintf("p%02d", i) || pod.Spec.Containers[0].Name != "app" || pod.Spec.Containers[0].Image != "" {
			t.Fatalf("pod %d: %v", i, pod)
		}
	}
	if len(list.Items) != count || pages != 3 || list.ResourceVersion == "" {
		t.Errorf("%d pods at version %q by %d requests", len(list.Items), list.ResourceVersion, pages)
	}
}
