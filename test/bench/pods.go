package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Names of the pods in the mix.
const (
	podSimple = "simple"
	podLarge  = "large"
	podInit   = "init"
)

// uidHole is where a review's uid goes: each request has its own, so that no
// server can answer from memory.
const uidHole = "00000000-0000-4000-8000-000000000000"

// review is one AdmissionReview as the API server would send it, cut around its
// uid.
type review struct {
	name       string
	pod        []byte // the object in it
	head, tail []byte
}

// reviews returns the mix that the webhook is measured with: a pod of one small
// container, one of five large containers with probes, and one with two init
// containers of its own.
func reviews() ([]review, error) {
	mix := []struct {
		name string
		pod  *corev1.Pod
	}{{podSimple, simplePod()}, {podLarge, largePod()}, {podInit, initPod()}}
	all := make([]review, 0, len(mix))
	for _, m := range mix {
		r, err := newReview(m.name, m.pod)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", m.name, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func newReview(name string, pod *corev1.Pod) (review, error) {
	object, err := json.Marshal(pod)
	if err != nil {
		return review{}, err
	}
	options, err := json.Marshal(metav1.CreateOptions{
		TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "CreateOptions"},
	})
	if err != nil {
		return review{}, err
	}
	kind := metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}
	pods := metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	dryRun := false
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID:             uidHole,
			Kind:            kind,
			Resource:        pods,
			RequestKind:     &kind,
			RequestResource: &pods,
			Namespace:       pod.Namespace,
			Operation:       admissionv1.Create,
			UserInfo: authenticationv1.UserInfo{
				Username: "system:serviceaccount:kube-system:replicaset-controller",
				UID:      "6c6f0cb2-5ab4-4b3c-9d5e-0c0d55a0b1f7",
				Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"},
			},
			Object:  runtime.RawExtension{Raw: object},
			DryRun:  &dryRun,
			Options: runtime.RawExtension{Raw: options},
		},
	})
	if err != nil {
		return review{}, err
	}
	head, tail, found := bytes.Cut(append(body, '\n'), []byte(uidHole))
	if !found {
		return review{}, errors.New("review without uid")
	}
	return review{name: name, pod: object, head: head, tail: tail}, nil
}

// body writes the review with a uid made of two numbers into buf, and returns the
// uid beside it.
func (r review) body(buf *bytes.Buffer, client, n int) string {
	uid := fmt.Sprintf("%08x-0000-4000-8000-%012x", client, n)
	buf.Reset()
	buf.Write(r.head)
	buf.WriteString(uid)
	buf.Write(r.tail)
	return uid
}

func simplePod() *corev1.Pod {
	return newPod("sleep", corev1.PodSpec{Containers: []corev1.Container{container("sleep", 0)}})
}

func largePod() *corev1.Pod { return probedPod("frontend", "catalogue", "cart", "payment", "audit") }

// probedPod has large containers with probes.
func probedPod(names ...string) *corev1.Pod {
	var spec corev1.PodSpec
	for i, name := range names {
		c := container(name, 40)
		port := int32(8080 + i)
		c.Ports = []corev1.ContainerPort{{Name: "http-" + name, ContainerPort: port, Protocol: corev1.ProtocolTCP}}
		c.ReadinessProbe = probe("/ready", intstr.FromString("http-"+name))
		c.LivenessProbe = probe("/live", intstr.FromInt32(port))
		spec.Containers = append(spec.Containers, c)
	}
	return newPod("shop", spec)
}

func initPod() *corev1.Pod {
	spec := corev1.PodSpec{
		InitContainers: []corev1.Container{container("wait-for-db", 0), container("migrate", 0)},
		Containers:     []corev1.Container{container("ledger", 0)},
	}
	for i := range spec.InitContainers {
		spec.InitContainers[i].Resources = corev1.ResourceRequirements{}
	}
	return newPod("ledger", spec)
}

// container is one container as it looks after the API server's defaulting.
func container(name string, env int) corev1.Container {
	c := corev1.Container{
		Name:    name,
		Image:   "registry.example.com/shop/" + name + ":1.4.2",
		Command: []string{"/bin/" + name, "--listen=:8080"},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("100m"),
			corev1.ResourceMemory: resource.MustParse("64Mi"),
		}},
		VolumeMounts: []corev1.VolumeMount{{
			Name: "kube-api-access-x7k2p", ReadOnly: true,
			MountPath: "/var/run/secrets/kubernetes.io/serviceaccount",
		}},
		TerminationMessagePath:   "/dev/termination-log",
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		ImagePullPolicy:          corev1.PullIfNotPresent,
	}
	for i := range env {
		c.Env = append(c.Env, corev1.EnvVar{
			Name:  fmt.Sprintf("SHOP_SETTING_%02d", i),
			Value: fmt.Sprintf("value-%02d.%s.shop.example.com", i, name),
		})
	}
	return c
}

func probe(path string, port intstr.IntOrString) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: port, Scheme: corev1.URISchemeHTTP,
		}},
		TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
	}
}

// newPod completes a pod as a ReplicaSet creates it and the API server defaults it
// before admission: owner, managed fields, projected token, tolerations.
func newPod(app string, spec corev1.PodSpec) *corev1.Pod {
	yes, grace := true, int64(30)
	lifetime, notReady := int64(3607), int64(300)
	spec.Volumes = []corev1.Volume{{
		Name: "kube-api-access-x7k2p",
		VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &lifetime, Path: "token"}},
		}}},
	}}
	spec.RestartPolicy = corev1.RestartPolicyAlways
	spec.TerminationGracePeriodSeconds = &grace
	spec.DNSPolicy = corev1.DNSClusterFirst
	spec.ServiceAccountName = app
	spec.SecurityContext = &corev1.PodSecurityContext{}
	spec.SchedulerName = corev1.DefaultSchedulerName
	spec.Tolerations = []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &notReady},
	}
	spec.EnableServiceLinks = &yes
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: app + "-6d4b75cb6d-",
			Namespace:    "shop",
			Labels:       map[string]string{"app": app, "pod-template-hash": "6d4b75cb6d"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-6d4b75cb6d",
				UID: "3f0e2c5a-8a4e-4a35-9d0e-6f1d9c2b7a10", Controller: &yes, BlockOwnerDeletion: &yes,
			}},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate,
				APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: owned(spec),
				Time: &metav1.Time{Time: time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)},
			}},
		},
		Spec: spec,
	}
}

// owned is the field set that the API server writes down for a new pod, in its
// form and about its size, without the fields of each variable and probe.
func owned(spec corev1.PodSpec) *metav1.FieldsV1 {
	var b bytes.Buffer
	b.WriteString(`{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{}}},"f:spec":{`)
	list := func(field string, containers []corev1.Container) {
		fmt.Fprintf(&b, `"f:%s":{`, field)
		for i, c := range containers {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `"k:{\"name\":\"%s\"}":{".":{},"f:image":{},"f:name":{}}`, c.Name)
		}
		b.WriteString(`},`)
	}
	list("containers", spec.Containers)
	if len(spec.InitContainers) > 0 {
		list("initContainers", spec.InitContainers)
	}
	b.WriteString(`"f:restartPolicy":{}}}`)
	fields := metav1.NewFieldsV1(b.String())
	return fields
}
