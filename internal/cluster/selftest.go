package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// SelfTest asks the API server what would become of a pod.
type SelfTest struct {
	Namespace string                  // "": mesh.SelfTestNamespace
	Pod       func() *corev1.Pod      // makes the pod to send
	Check     func(*corev1.Pod) error // says what is wrong with what came back
	Every     time.Duration           // between tests that pass; 0: 10 min. Those that fail are repeated sooner
	Log       *slog.Logger            // nil: no log
	Metrics   prometheus.Registerer   // nil: no metrics
}

// SelfTest returns a part that has the API server admit the pod, by a dry run that
// creates nothing, and checks what came back: first with growing pauses until it
// passes, then again and again. The result is in metrics, and in the log when it
// changes.
func (a *API) SelfTest(t SelfTest) func(context.Context) error {
	t.Namespace = cmp.Or(t.Namespace, mesh.SelfTestNamespace)
	if t.Every <= 0 {
		t.Every = 10 * time.Minute
	}
	t.Log = orDiscard(t.Log)
	return func(ctx context.Context) error {
		passing, err := registered(t.Metrics, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "injector_self_test",
			Help: "1 if the API server, when last asked, gave the sidecar to a pod sent by dry run, else 0.",
		}))
		if err != nil {
			return err
		}
		passed, err := registered(t.Metrics, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "injector_self_test_passed_seconds",
			Help: "When that was last so, in seconds since 1970; 0 if never.",
		}))
		if err != nil {
			return err
		}
		var last string // what was logged last
		pauses := selfTestPauses(t.Every)
		for {
			err := a.testOnce(ctx, t)
			if ctx.Err() != nil {
				return nil
			}
			pause := t.Every
			if err == nil {
				passing.Set(1)
				passed.Set(float64(time.Now().Unix()))
				pauses = selfTestPauses(t.Every)
				if last != "passed" {
					last = "passed"
					t.Log.InfoContext(ctx, "self-test passed", "namespace", t.Namespace)
				}
			} else {
				passing.Set(0)
				pause = pauses.Step()
				if last != err.Error() {
					last = err.Error()
					t.Log.WarnContext(ctx, "self-test failed", "namespace", t.Namespace, "err", err)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
		}
	}
}

// selfTestPauses are those between tests that fail.
func selfTestPauses(most time.Duration) wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.2, Steps: 30, Cap: min(most, time.Minute)}
}

func (a *API) testOnce(ctx context.Context, t SelfTest) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	pod, err := a.Client.CoreV1().Pods(t.Namespace).Create(ctx, t.Pod(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return explained(err, t.Namespace)
	}
	if err := t.Check(pod); err != nil {
		return fmt.Errorf("the pod came back otherwise than it should: %w", err)
	}
	return nil
}

// explained says of what an API server answered to the self-test what has to be done.
func explained(err error, namespace string) error {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return fmt.Errorf("the API server does not answer: %w", err)
	}
	message := status.ErrStatus.Message
	switch details := status.ErrStatus.Details; {
	case apierrors.IsNotFound(err) && details != nil && details.Kind == "namespaces":
		return fmt.Errorf("there is no namespace %s, which the manifests make: %w", namespace, err)
	case strings.Contains(message, "failed calling webhook"):
		return fmt.Errorf("the API server cannot ask the webhook: %w", err)
	case strings.Contains(message, "denied the request"):
		return fmt.Errorf("the webhook refuses the pod: %w", err)
	case apierrors.IsForbidden(err) && strings.Contains(message, "cannot create resource"):
		return fmt.Errorf("the right to create pods in namespace %s is missing, which the manifests give: %w", namespace, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the pod is not admitted: %w", err)
	}
	return err
}
