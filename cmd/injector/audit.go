package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// audit looks at pods that exist with the eyes of the injector.
type audit struct {
	settings   func() inject.Settings
	namespaces *cluster.Namespaces
	again      chan struct{}
}

func newAudit(settings func() inject.Settings, namespaces *cluster.Namespaces) *audit {
	return &audit{settings: settings, namespaces: namespaces, again: make(chan struct{}, 1)}
}

// look has all pods judged again.
func (a *audit) look() {
	select {
	case a.again <- struct{}{}:
	default: // somebody will
	}
}

// judge says what is wrong with a pod. A namespace that cannot be read now is no
// finding: the pod comes again.
func (a *audit) judge(pod *corev1.Pod) cluster.Finding {
	ns, err := a.namespaces.Get(context.Background(), pod.Namespace)
	if err != nil {
		return cluster.Finding{}
	}
	found := inject.Audit(inject.FromPod(pod), ns, a.settings())
	return cluster.Finding{LeftOut: found.LeftOut, Meant: found.Meant, Drifted: found.Drifted}
}

// selfTest asks the API server for a pod that needs nothing that the restricted pod
// security standard refuses: no istio-init.
func selfTest(api *cluster.API, revision string, log *slog.Logger, metrics prometheus.Registerer) func(context.Context) error {
	return api.SelfTest(cluster.SelfTest{
		Log: log, Metrics: metrics,
		Pod: func() *corev1.Pod {
			return &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{
					GenerateName: "self-test-",
					Labels:       map[string]string{mesh.RevisionLabel: revision},
					Annotations:  map[string]string{mesh.InterceptionMode: mesh.NoMode},
				},
				Spec: corev1.PodSpec{
					SecurityContext: &corev1.PodSecurityContext{
						RunAsNonRoot: new(true), RunAsUser: new(int64(65532)),
						SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
					},
					AutomountServiceAccountToken: new(false),
					Containers: []corev1.Container{{
						Name: "application", Image: "none",
						SecurityContext: &corev1.SecurityContext{
							AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
						},
					}},
				},
			}
		},
		Check: func(pod *corev1.Pod) error {
			if !inject.FromPod(pod).Has() {
				return errors.New("it has no sidecar: does the webhook select the namespace?")
			}
			if got := pod.Annotations[mesh.RevisionLabel]; got != revision {
				return fmt.Errorf("revision %q made its sidecar, not %q", got, revision)
			}
			return nil
		},
	})
}
