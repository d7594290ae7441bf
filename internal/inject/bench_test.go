package inject

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/garrison-mesh/garrison/internal/admission"
)

// benchmarkPods are a small pod and one of 5 containers with 40 variables and two
// probes each.
func benchmarkPods() map[string][]byte {
	large := corev1.Pod{}
	large.GenerateName = "large-"
	for i := range 5 {
		c := corev1.Container{Name: fmt.Sprintf("c%d", i), Image: "registry.example/app:v1"}
		for j := range 40 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprintf("VARIABLE_%d", j), Value: "a value of some length, as they have"})
		}
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt(8080 + i)}}}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(8080 + i)}}}
		large.Spec.Containers = append(large.Spec.Containers, c)
	}
	raw, _ := json.Marshal(large)
	return map[string][]byte{
		"simple": []byte(`{"metadata":{"name":"sleep","labels":{"app":"sleep"}},"spec":{"containers":[{"name":"sleep","image":"curl"}]}}`),
		"large":  raw,
	}
}

// BenchmarkInjector measures a whole review in the process, and beside it the
// least that an injector which decodes review and pod could do.
func BenchmarkInjector(b *testing.B) {
	for name, pod := range benchmarkPods() {
		body := reviewOf(creation + string(pod))
		b.Run(name+"/injector", func(b *testing.B) {
			i := newInjector(settings(b), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			w := webhook{handler: i.Handler(admission.Limits{})}
			b.ReportAllocs()
			for b.Loop() {
				if out := w.post(body); out.Code != 200 {
					b.Fatal(out.Body)
				}
			}
		})
		b.Run(name+"/typed-floor", func(b *testing.B) {
			patch := make([]byte, 7600)
			b.ReportAllocs()
			for b.Loop() {
				var review admissionv1.AdmissionReview
				if err := json.Unmarshal(body, &review); err != nil {
					b.Fatal(err)
				}
				if err := json.Unmarshal(review.Request.Object.Raw, new(corev1.Pod)); err != nil {
					b.Fatal(err)
				}
				review.Response = &admissionv1.AdmissionResponse{UID: "u", Allowed: true, Patch: patch, PatchType: new(admissionv1.PatchTypeJSONPatch)}
				review.Request = nil
				if _, err := json.Marshal(review); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
