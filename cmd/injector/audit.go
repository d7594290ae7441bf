package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// audit looks at pods that exist with the eyes of the injector.
type audit struct {
	settings   func() inject.Settings
	namespaces *cluster.Namespaces
	webhooks   *webhooks
}

// judge says what is wrong with a pod. As long as namespaces or webhooks are not known that is
// nothing, and no question to the API server, of which admission needs the answers:
// all pods come again when they are.
func (a *audit) judge(ctx context.Context, pod *corev1.Pod) (cluster.Finding, error) {
	shown := a.webhooks.shown.Load()
	if shown == nil || a.namespaces.Ready() != nil {
		return cluster.Finding{}, nil
	}
	ns, err := a.namespaces.Get(ctx, pod.Namespace)
	if apierrors.IsNotFound(err) {
		return cluster.Finding{}, nil // so the pod goes, too
	}
	if err != nil {
		return cluster.Finding{}, err
	}
	found := inject.Audit(inject.FromPod(pod), ns, a.settings(), *shown)
	return cluster.Finding{LeftOut: found.LeftOut, Meant: found.Meant, Drifted: found.Drifted}, nil
}

// word is that there are news; one that nobody has heard yet stands for all.
type word chan struct{}

func newWord() word { return make(word, 1) }

func (w word) tell() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// selfTestPod is one that the entry under test selects, and that this injector has to
// inject whatever its policy is: what it makes of a pod that says nothing is no matter of
// the webhook. It needs nothing that the restricted pod security standard refuses: no
// istio-init.
func selfTestPod(t inject.SelfTest) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "self-test", Namespace: t.Namespace, Labels: t.Labels,
			// The word is an annotation because selectors go by labels.
			Annotations: map[string]string{mesh.InterceptionMode: mesh.NoMode, mesh.InjectLabel: "true"},
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
}

func selfTest(api *cluster.API, revision string, log *slog.Logger, metrics prometheus.Registerer) func(context.Context) error {
	return api.SelfTest(cluster.SelfTest{
		Revision: revision, Log: log, Metrics: metrics,
		Trials: func(installed []admissionregistrationv1.MutatingWebhookConfiguration) []cluster.Trial {
			var trials []cluster.Trial
			for _, t := range inject.SelfTests(revision, installed) {
				trials = append(trials, cluster.Trial{Webhook: t.Webhook, Entry: t.Entry, Pod: selfTestPod(t)})
			}
			return trials
		},
		Check: func(pod *corev1.Pod) error {
			if !inject.FromPod(pod).Has() {
				return errors.New("it has no sidecar: does the entry select the namespace and the pod?")
			}
			if got := pod.Annotations[mesh.RevisionLabel]; got != revision {
				return fmt.Errorf("revision %q made its sidecar, not %q", got, revision)
			}
			return nil
		},
	})
}
