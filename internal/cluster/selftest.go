package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// SelfTest asks the API server what would become of pods.
type SelfTest struct {
	Revision string // selects the configurations to test, as CABundleKeeper.Revision does

	// Trials returns the pods to send, given the configurations that exist.
	Trials func([]admissionv1.MutatingWebhookConfiguration) []Trial
	Check  func(*corev1.Pod) error // says what is wrong with what came back

	Every   time.Duration         // between tests that pass; 0: 10 min. Those that fail are repeated sooner
	Log     *slog.Logger          // nil: no log
	Metrics prometheus.Registerer // nil: no metrics
}

// Trial is a pod, namespace included, that one entry of a webhook selects.
type Trial struct {
	Webhook, Entry string
	Pod            *corev1.Pod
}

// SelfTest returns a part that has the API server admit each of the pods, by a dry run
// that creates nothing, and checks what came back: first with growing pauses until all
// pass, then again and again. The results are in metrics, by entry, and in the log when
// they change.
func (a *API) SelfTest(t SelfTest) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := newSelfTester(a, t)
		if err != nil {
			return err
		}
		return s.run(ctx)
	}
}

// webhookEntry names one of a webhook configuration.
type webhookEntry struct{ webhook, name string }

type selfTester struct {
	SelfTest
	api             *API
	passing, passed *prometheus.GaugeVec
	trials          []Trial                 // those of the configurations last seen
	failing         map[webhookEntry]string // and why, as it was logged
	said            bool                    // that all pass
}

func newSelfTester(a *API, t SelfTest) (*selfTester, error) {
	t.Revision = cmp.Or(t.Revision, mesh.DefaultRevision)
	if t.Every <= 0 {
		t.Every = 10 * time.Minute
	}
	t.Log = orDiscard(t.Log)
	s := &selfTester{SelfTest: t, api: a, trials: t.Trials(nil), failing: map[webhookEntry]string{}}
	var err error
	if s.passing, err = registered(t.Metrics, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "injector_self_test",
		Help: "1 if the API server, when last asked, gave the sidecar to a pod sent by dry run that this entry of the webhook selects, else 0.",
	}, []string{"webhook", "entry"})); err != nil {
		return nil, err
	}
	s.passed, err = registered(t.Metrics, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "injector_self_test_passed_seconds",
		Help: "When that was last so, in seconds since 1970; 0 if never.",
	}, []string{"webhook", "entry"}))
	return s, err
}

func (s *selfTester) run(ctx context.Context) error {
	pauses := selfTestPauses(s.Every)
	for {
		errs := s.test(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.report(ctx, errs)
		pause := s.Every
		if len(s.failing) == 0 {
			pauses = selfTestPauses(s.Every)
		} else {
			pause = pauses.Step()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// test tries each pod once. The errors, nil or not, are those of the trials.
func (s *selfTester) test(ctx context.Context) []error {
	installed, err := s.api.webhooksOf(ctx, s.Revision)
	if err == nil {
		before := s.trials
		s.trials = s.Trials(installed)
		s.forget(before)
	}
	errs := make([]error, len(s.trials))
	for i, trial := range s.trials {
		errs[i] = err
		if err == nil {
			errs[i] = s.api.try(ctx, trial.Pod, s.Check)
		}
	}
	return errs
}

// forget drops what is known of entries that are no longer to be tested.
func (s *selfTester) forget(before []Trial) {
	for _, old := range before {
		if !slices.ContainsFunc(s.trials, func(t Trial) bool { return t.Webhook == old.Webhook && t.Entry == old.Entry }) {
			s.passing.DeleteLabelValues(old.Webhook, old.Entry)
			s.passed.DeleteLabelValues(old.Webhook, old.Entry)
			delete(s.failing, webhookEntry{old.Webhook, old.Entry})
		}
	}
}

func (s *selfTester) report(ctx context.Context, errs []error) {
	for i, err := range errs {
		t := s.trials[i]
		e := webhookEntry{t.Webhook, t.Entry}
		passing, passed := s.passing.WithLabelValues(e.webhook, e.name), s.passed.WithLabelValues(e.webhook, e.name)
		if err == nil {
			passing.Set(1)
			passed.Set(float64(time.Now().Unix()))
			delete(s.failing, e)
			continue
		}
		passing.Set(0)
		if s.failing[e] != err.Error() {
			s.failing[e] = err.Error()
			s.Log.WarnContext(ctx, "self-test failed", "webhook", e.webhook, "entry", e.name, "namespace", t.Pod.Namespace, "err", err)
		}
	}
	pass := len(s.failing) == 0 && len(errs) > 0
	if pass && !s.said {
		s.Log.InfoContext(ctx, "self-test passed", "entries", len(s.trials))
	}
	s.said = pass
}

// selfTestPauses are those between tests that fail.
func selfTestPauses(most time.Duration) wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.2, Steps: 30, Cap: min(most, time.Minute)}
}

// webhooksOf returns the configurations by which a revision is called.
func (a *API) webhooksOf(ctx context.Context, revision string) ([]admissionv1.MutatingWebhookConfiguration, error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	list, err := a.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{LabelSelector: webhookLabels(revision)})
	if err != nil {
		return nil, fmt.Errorf("the webhook configurations cannot be read: %w", err)
	}
	return list.Items, nil
}

// try has the API server admit a pod that is not made, and checks what comes back.
func (a *API) try(ctx context.Context, pod *corev1.Pod, check func(*corev1.Pod) error) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	admitted, err := a.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if provesSidecar(err) {
		return nil
	}
	if err != nil {
		return explained(err, pod.Namespace)
	}
	if err := check(admitted); err != nil {
		return fmt.Errorf("the pod came back otherwise than it should: %w", err)
	}
	return nil
}

// provesSidecar reports whether a pod was refused by the pod security standard of its
// namespace for a sidecar that it did not have when it was sent. That is the fate of every
// sidecar whose settings say privileged.
func provesSidecar(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "violates PodSecurity") &&
		strings.Contains(err.Error(), strconv.Quote(mesh.ProxyContainer))
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
