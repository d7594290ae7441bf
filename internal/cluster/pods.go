package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// podPage is how many pods are held as a whole at a time while they are listed.
const podPage = 250

// packedPod is what the cache holds of a pod: encoded, since thousands of pods are
// mostly room for fields that they do not have.
type packedPod struct {
	namespace, name, version string
	trimmed                  []byte // Pod, protobuf
}

// GetObjectMeta lets a cache find its way.
func (p *packedPod) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, ResourceVersion: p.version}
}

// unpack returns a pod of the caller's own.
func (p *packedPod) unpack() (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := pod.Unmarshal(p.trimmed); err != nil {
		return nil, fmt.Errorf("pod as cached: %w", err)
	}
	return pod, nil
}

// packPod runs before a pod enters the cache, or twice on the way there.
func packPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	trimmed := trimPod(pod)
	encoded, err := trimmed.Marshal()
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return &packedPod{namespace: pod.Namespace, name: pod.Name, version: pod.ResourceVersion, trimmed: encoded}, nil
}

// trimPod returns of a pod what [PodAudit.Judge] may ask about, sharing its maps.
func trimPod(pod *corev1.Pod) corev1.Pod {
	trimmed := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
			Labels:      pod.Labels,
			Annotations: annotationsOf(pod.Annotations, "istio.io", "garrison.io", "prometheus.io"),
		},
		Spec: corev1.PodSpec{
			HostNetwork: pod.Spec.HostNetwork, OS: pod.Spec.OS,
			NodeSelector: pod.Spec.NodeSelector, NodeName: pod.Spec.NodeName,
			InitContainers: namesOnly(pod.Spec.InitContainers), Containers: namesOnly(pod.Spec.Containers),
		},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if pod.Spec.Resources != nil {
		trimmed.Spec.Resources = &corev1.ResourceRequirements{}
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		trimmed.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	if mirror, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		metav1.SetMetaDataAnnotation(&trimmed.ObjectMeta, corev1.MirrorPodAnnotationKey, mirror)
	}
	return trimmed
}

func namesOnly(containers []corev1.Container) []corev1.Container {
	names := make([]corev1.Container, len(containers))
	for i := range containers {
		names[i].Name = containers[i].Name
	}
	return names
}

// newPodInformer lists by pages, and keeps of each page what the cache will hold:
// thousands of whole pods would be many times what the process is given.
func newPodInformer(client kubernetes.Interface) cache.SharedIndexInformer {
	pods := client.CoreV1().Pods(metav1.NamespaceAll)
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return listTrimmed(ctx, options, pods.List)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return pods.Watch(ctx, options)
		},
	}, client), &corev1.Pod{}, 0, cache.Indexers{})
}

// listTrimmed lists all pods. It asks for the newest state, because an API server
// does not divide what it answers from its cache.
func listTrimmed(
	ctx context.Context, options metav1.ListOptions, list func(context.Context, metav1.ListOptions) (*corev1.PodList, error),
) (*corev1.PodList, error) {
	options.ResourceVersion, options.ResourceVersionMatch = "", ""
	options.Limit, options.Continue = podPage, ""
	all := &corev1.PodList{}
	for {
		page, err := list(ctx, options)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			all.Items = append(all.Items, trimPod(&page.Items[i]))
		}
		all.ResourceVersion, options.Continue = page.ResourceVersion, page.Continue
		if options.Continue == "" {
			return all, nil
		}
	}
}
