package inject

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// chosen are values of annotations, each of which a pod may have beside every other.
var chosen = map[string][]string{
	mesh.ProxyCPU: {"1m", "2"}, mesh.ProxyMemoryLimit: {"2Gi"}, mesh.NativeSidecar: {"true", "false", "auto"},
	mesh.ProxyConfig: {"holdApplicationUntilProxyStarts: true", "{concurrency: 3, drainDuration: 7s, unknown: 1}"},
	mesh.StatusPort:  {"0", "15999"}, mesh.ReadinessPeriod: {"3"}, mesh.RewriteProbes: {"true", "false"},
	mesh.InterceptionMode:        {"REDIRECT", "TPROXY", "NONE"},
	mesh.IncludeOutboundIPRanges: {"*", "10.0.0.0/8"}, mesh.ExcludeInboundPorts: {"9102,9103"}, mesh.ExcludeOutboundPorts: {"53"},
	mesh.UserVolume: {`{"extra":{"emptyDir":{}}}`}, mesh.ScrapeTargets: {"8080:/m,9090"}, mesh.MergeMetrics: {"true", "false"},
	mesh.PrometheusScrape: {"true", "false"}, mesh.PrometheusPort: {"8080"}, mesh.Templates: {"sidecar", "sidecar,debug"},
	"example.com/other": {"~/ $(A) \"quoted\""}, "sidecar.istio.io/unknown": {"x"},
}

// randomPod makes a pod that an API server takes, of whatever pods are made of.
func randomPod(r *rand.Rand) *corev1.Pod {
	maybe := func(percent int) bool { return r.IntN(100) < percent }
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "random-"}}
	for name, values := range chosen {
		if maybe(12) {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, name, values[r.IntN(len(values))])
		}
	}
	for _, label := range []string{"app", "app.kubernetes.io/name", "version", mesh.CanonicalName, mesh.NetworkLabel} {
		if maybe(20) {
			metav1.SetMetaDataLabel(&pod.ObjectMeta, label, fmt.Sprintf("v%d", r.IntN(9)))
		}
	}
	for i := range r.IntN(4) {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, randomContainer(r, fmt.Sprintf("init-%d", i), maybe(40)))
	}
	for i := range 1 + r.IntN(4) {
		pod.Spec.Containers = append(pod.Spec.Containers, randomContainer(r, fmt.Sprintf("app-%d", i), true))
		if restart := pod.Spec.Containers[i].RestartPolicy; restart != nil {
			pod.Spec.Containers[i].RestartPolicy = nil
		}
	}
	if maybe(15) {
		own := corev1.Container{Name: mesh.ProxyContainer, Image: autoImage, Env: []corev1.EnvVar{{Name: "EXTRA", Value: "1"}}}
		if maybe(50) {
			own.Env = append(own.Env, corev1.EnvVar{Name: mesh.CAAddressEnv, Value: "other:1"})
		}
		at := r.IntN(len(pod.Spec.Containers) + 1)
		pod.Spec.Containers = append(pod.Spec.Containers[:at], append([]corev1.Container{own}, pod.Spec.Containers[at:]...)...)
	}
	if maybe(30) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "own", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
	if maybe(20) {
		pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "own"}}
	}
	if maybe(20) {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(1000))}
	}
	return pod
}

func randomContainer(r *rand.Rand, name string, stays bool) corev1.Container {
	maybe := func(percent int) bool { return r.IntN(100) < percent }
	c := corev1.Container{Name: name, Image: "none"}
	if maybe(50) {
		c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: int32(1024 + r.IntN(1000))}}
	}
	for i := range r.IntN(4) {
		c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("V%d", i), Value: "<&>\u2028"})
	}
	if !stays {
		return c
	}
	c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	for _, probe := range []**corev1.Probe{&c.ReadinessProbe, &c.LivenessProbe, &c.StartupProbe} {
		if maybe(35) {
			*probe = &corev1.Probe{ProbeHandler: randomHandler(r, c.Ports), TimeoutSeconds: int32(r.IntN(4))}
		}
	}
	if maybe(25) {
		h := randomHandler(r, c.Ports)
		if h.GRPC == nil {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket, Exec: h.Exec}}
		}
	}
	return c
}

func randomHandler(r *rand.Rand, ports []corev1.ContainerPort) corev1.ProbeHandler {
	port := intstr.FromInt32([]int32{80, 8443, mesh.AgentPort}[r.IntN(3)])
	if len(ports) > 0 && r.IntN(2) == 0 {
		port = intstr.FromString([]string{"web", "nowhere"}[r.IntN(2)])
	}
	host := []string{"", "", "", "example.com"}[r.IntN(4)]
	switch r.IntN(5) {
	case 0:
		return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port, Host: host}}
	case 1:
		return corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(1 + r.IntN(65535))}}
	case 2:
		return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
	}
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
		Path: "/a b?c=$(D)", Port: port, Host: host, Scheme: []corev1.URIScheme{"", "HTTP", "HTTPS"}[r.IntN(3)],
		HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "x"}},
	}}
}

// randomCase is a case of a random pod on a random cluster.
func randomCase(t testing.TB, seed uint64) testCase {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0)) // the same pods each time
	o := defaultOptions()
	o.ImagePullSecrets = []string{"registry"}
	s, err := NewSettings(o)
	if err != nil {
		t.Fatal(err)
	}
	overlays, err := ParseOverlays(map[string]string{"debug": "metadata: {annotations: {debug: \"1\"}}\nspec: {containers: [{name: istio-proxy, env: [{name: A, value: b}]}, {name: app-0, env: [{name: A, value: b}]}]}"})
	if err != nil {
		t.Fatal(err)
	}
	if s, err = s.WithOverlays(overlays); err != nil {
		t.Fatal(err)
	}
	c := testCase{name: fmt.Sprintf("random %d", seed), settings: s, at: Situation{Namespace: mesh.Namespace{Name: "shop"}}}
	if r.IntN(4) == 0 {
		c.at.Older = []mesh.Node{{Name: "old", Minor: 32}}
	}
	if r.IntN(4) == 0 {
		c.at.Namespace.Annotations = map[string]string{mesh.ProxyCPU: "3m", mesh.ExcludeOutboundIPRanges: "192.168.0.0/16"}
	}
	if c.pod, err = json.Marshal(randomPod(r)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestLawsOfRandomPods: what holds over the cases that people thought of holds over
// those that nobody did.
func TestLawsOfRandomPods(t *testing.T) {
	injections := 0
	for seed := range uint64(120) {
		c := randomCase(t, seed)
		r, err := c.inject(c.pod)
		if err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, c.pod)
			continue
		}
		if r.skipped != "" {
			continue
		}
		injections++
		ok := t.Run(c.name, func(t *testing.T) {
			c.expectPositional(t, r.Ops)
			c.expectMinimal(t, r)
			c.expectNoMore(t, r.pod)
			c.expectNewcomer(t, r.pod)
			c.expectReplaced(t, r)
			c.expectUndone(t, r)
			expectOrder(t, c.pod, r.pod)
			c.expectUnknownSurvive(t, r.pod)
		})
		if !ok {
			t.Fatalf("%s", c.pod)
		}
	}
	if injections < 90 {
		t.Errorf("only %d are injected", injections)
	}
}
