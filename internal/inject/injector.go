package inject

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/garrison-mesh/garrison/internal/admission"
)

// Injector answers admission reviews of pods.
type Injector struct {
	settings Settings
	log      *slog.Logger
	reviews  *prometheus.CounterVec
	seconds  prometheus.Histogram
}

// What became of a review, for metrics: one of four beside its [Reason].
const (
	outcomeInjected = "injected"
	outcomeSkipped  = "skipped"
	outcomeRefused  = "refused"
	outcomeLate     = "late" // the API server no longer waited
)

// NewInjector returns an injector that counts into the registry given.
func NewInjector(s Settings, log *slog.Logger, metrics prometheus.Registerer) *Injector {
	i := &Injector{
		settings: s, log: log,
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sidecar_injection_requests_total",
			Help: "Admission reviews of pods by what became of them and why.",
		}, []string{"outcome", "reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sidecar_injection_time_seconds",
			Help:    "Time to decide on one pod and make its patch.",
			Buckets: prometheus.ExponentialBucketsRange(50e-6, 1, 14),
		}),
	}
	metrics.MustRegister(i.reviews, i.seconds)
	return i
}

// Admit decides on one pod. It is the function that [admission.Handler] takes.
func (i *Injector) Admit(ctx context.Context, r *admission.Request) admission.Response {
	begin := time.Now()
	response, outcome, reason := i.admit(ctx, r)
	i.seconds.Observe(time.Since(begin).Seconds())
	i.reviews.WithLabelValues(outcome, string(reason)).Inc()
	response.Audit = map[string]string{"reason": string(reason)}
	return response
}

func (i *Injector) admit(ctx context.Context, r *admission.Request) (response admission.Response, outcome string, reason Reason) {
	if ctx.Err() != nil { // it waited too long for its turn; an answer would help nobody
		return admission.Response{Message: "the time for an answer was up"}, outcomeLate, Overload
	}
	if r.Operation != "CREATE" || r.Resource.Group != "" || r.Resource.Resource != "pods" || r.SubResource != "" {
		return admission.Response{Allowed: true}, outcomeSkipped, NotPodCreation
	}
	pod, err := ParsePod(r.Object)
	if err != nil {
		return i.refuse(ctx, r, "", err)
	}
	decision, err := Decide(pod, r.Namespace)
	if err != nil {
		return i.refuse(ctx, r, pod.Name(), err)
	}
	if !decision.Inject {
		i.log.DebugContext(ctx, "skipped", "namespace", cut(r.Namespace), "pod", cut(pod.Name()), "reason", decision.Reason)
		return admission.Response{Allowed: true}, outcomeSkipped, decision.Reason
	}
	ops, err := Edit(pod, i.settings)
	if err != nil {
		return i.refuse(ctx, r, pod.Name(), err)
	}
	patch, err := Patch(ops)
	if err != nil {
		return i.refuse(ctx, r, pod.Name(), err)
	}
	i.log.InfoContext(ctx, "injected", "namespace", cut(r.Namespace), "pod", cut(pod.Name()), "reason", decision.Reason)
	return admission.Response{Allowed: true, Patch: patch, Warnings: warnings(pod)}, outcomeInjected, decision.Reason
}

func (i *Injector) refuse(ctx context.Context, r *admission.Request, pod string, err error) (admission.Response, string, Reason) {
	reason := Malformed
	if refusal, ok := errors.AsType[*Refusal](err); ok { // of several, the first counts
		reason = refusal.Reason
	}
	i.log.WarnContext(ctx, "refused", "namespace", cut(r.Namespace), "pod", cut(pod), "reason", reason, "err", err)
	return admission.Response{Message: strings.ReplaceAll(err.Error(), "\n", "; ")}, outcomeRefused, reason
}

func warnings(pod *Pod) []string {
	var all []string
	for _, name := range Ignored(pod) {
		all = append(all, "annotation "+name+" is not honoured by Garrison")
	}
	return all
}
