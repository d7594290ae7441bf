package inject

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/garrison-mesh/garrison/internal/admission"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Config is what an injector is made of.
type Config struct {
	Settings  Settings
	Namespace func(ctx context.Context, name string) (mesh.Namespace, error) // what a namespace says, now
	Older     func() []mesh.Node                                             // nodes below [NativeMinor]; nil: there are none
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Injector answers admission reviews of pods.
type Injector struct {
	config   Config
	settings atomic.Pointer[Settings]
	metrics  injectorMetrics
}

// What became of a review, for metrics: one of four beside its [Reason].
const (
	outcomeInjected = "injected"
	outcomeSkipped  = "skipped"
	outcomeRefused  = "refused"
	outcomeLate     = "late" // the API server no longer waited
)

// NewInjector returns an injector that counts into the registry given.
func NewInjector(c Config) *Injector {
	i := &Injector{config: c, metrics: newInjectorMetrics(c.Metrics)}
	i.settings.Store(&c.Settings)
	return i
}

// Settings returns the settings in force, overlays included.
func (i *Injector) Settings() Settings { return *i.settings.Load() }

// SetOverlays offers these overlays from the next pod on. On error those in force stay.
func (i *Injector) SetOverlays(ctx context.Context, data map[string]string) {
	overlays, err := ParseOverlays(data)
	next := i.config.Settings
	if err == nil {
		next, err = i.config.Settings.WithOverlays(overlays)
	}
	i.metrics.reloaded(err, time.Now())
	if err != nil {
		i.config.Log.ErrorContext(ctx, "overlays refused", "kept", i.Settings().Overlays().Names(), "err", err)
		return
	}
	i.settings.Store(&next)
	i.config.Log.InfoContext(ctx, "overlays taken", "names", overlays.Names())
}

// verdict is what becomes of one review.
type verdict struct {
	admission.Response
	outcome string
	reason  Reason
	pod     string
	err     error // why it was refused
}

// Handler answers the API server's requests, and counts what it does.
func (i *Injector) Handler(l admission.Limits) http.Handler {
	return admission.Handler(i.Admit, admission.Config{
		Limits: l,
		Observe: func(phase string, took time.Duration) {
			i.metrics.phases.WithLabelValues(phase).Observe(took.Seconds())
		},
		Refused: func(code int) { i.metrics.unread.WithLabelValues(strconv.Itoa(code)).Inc() },
	})
}

// Admit decides on one pod. It is the function that [admission.Handler] takes.
func (i *Injector) Admit(ctx context.Context, r *admission.Request) admission.Response {
	begin := time.Now()
	v := i.admit(ctx, r)
	i.metrics.seconds.Observe(time.Since(begin).Seconds())
	i.metrics.reviews.WithLabelValues(v.outcome, string(v.reason)).Inc()
	if len(v.Patch) > 0 {
		i.metrics.patch.Observe(float64(len(v.Patch)))
	}
	if v.Audit == nil {
		v.Audit = map[string]string{}
	}
	v.Audit["outcome"], v.Audit["reason"] = v.outcome, string(v.reason)
	i.log(ctx, r, v)
	return v.Response
}

func (i *Injector) log(ctx context.Context, r *admission.Request, v verdict) {
	level, message := slog.LevelDebug, "skipped"
	switch v.outcome {
	case outcomeInjected:
		level, message = slog.LevelInfo, "injected"
	case outcomeRefused, outcomeLate:
		level, message = slog.LevelWarn, "refused"
	}
	log := i.config.Log
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("namespace", cut(r.Namespace)), slog.String("pod", cut(v.pod)), slog.String("reason", string(v.reason)),
	}
	if v.err != nil {
		attrs = append(attrs, slog.Any("err", v.err))
	}
	log.LogAttrs(ctx, level, message, attrs...)
}

func (i *Injector) admit(ctx context.Context, r *admission.Request) verdict {
	if ctx.Err() != nil { // it waited too long for its turn; an answer would help nobody
		return verdict{Response: admission.Response{Message: "the time for an answer was up"}, outcome: outcomeLate, reason: Overload}
	}
	if r.Operation != "CREATE" || r.Resource.Group != "" || r.Resource.Resource != "pods" || r.SubResource != "" {
		return verdict{Response: admission.Response{Allowed: true}, outcome: outcomeSkipped, reason: NotPodCreation}
	}
	variables, err := PathVariables(r.Path)
	if err != nil {
		return refused("", &Refusal{Reason: Malformed, Field: "path of the webhook", Problem: err.Error()})
	}
	pod, err := ParsePod(r.Object)
	if err != nil {
		return refused("", err)
	}
	ns, err := i.namespace(ctx, r, pod)
	if err != nil {
		return refused(pod.Name(), err)
	}
	s := i.settings.Load()
	decision, err := Decide(pod, ns, *s)
	if err != nil {
		return refused(pod.Name(), err)
	}
	warnings := append(decision.Warnings, Ignored(pod)...)
	if !decision.Inject {
		return verdict{Response: admission.Response{
			Allowed: true, Warnings: skipWarnings(decision, warnings), Audit: map[string]string{"why": decision.Why},
		}, outcome: outcomeSkipped, reason: decision.Reason, pod: pod.Name()}
	}
	at := Situation{Namespace: ns, Variables: variables}
	if i.config.Older != nil {
		at.Older = i.config.Older()
	}
	injection, err := Edit(pod, at, *s)
	if err != nil {
		return refused(pod.Name(), err)
	}
	return injected(pod, decision, injection, warnings)
}

func injected(pod *Pod, d Decision, injection Injection, warnings []string) verdict {
	v := verdict{
		Response: admission.Response{
			Allowed: true, Warnings: append(warnings, injection.Warnings...),
			Audit: map[string]string{"why": d.Why, "configuration": injection.Hash, "sidecar": injection.Why},
		},
		outcome: outcomeInjected, reason: d.Reason, pod: pod.Name(),
	}
	if len(injection.Holes) > 0 {
		v.Audit["holes"] = joined(injection.Holes)
	}
	switch {
	case injection.Again && len(injection.Ops) == 0:
		v.outcome, v.reason = outcomeSkipped, AlreadyInjected
		return v
	case injection.Again:
		v.reason = Reinjected
	}
	var err error
	if v.Patch, err = Patch(injection.Ops); err != nil {
		return refused(pod.Name(), err)
	}
	return v
}

// joined bounds what goes into an audit event.
func joined(holes []Hole) string {
	words := make([]string, 0, len(holes))
	for _, h := range holes {
		words = append(words, h.String())
	}
	text := strings.Join(words, "; ")
	return text[:min(len(text), 1024)]
}

// skipWarnings tells a pod's author that it was left out where they may not expect it:
// what they asked for themselves they know.
func skipWarnings(d Decision, warnings []string) []string {
	switch d.Reason {
	case HostNetwork, Windows, NeverSelected:
		return append(warnings, "no sidecar is injected: "+d.Why)
	}
	return warnings
}

// namespace returns what the pod's namespace says. On doubt no pod is made: it might be
// one that nothing may escape from.
func (i *Injector) namespace(ctx context.Context, r *admission.Request, pod *Pod) (mesh.Namespace, error) {
	name := r.Namespace
	if name == "" {
		name = pod.meta.Namespace
	}
	ns, err := i.config.Namespace(ctx, name)
	if err != nil {
		return ns, &Refusal{Reason: NoNamespace, Field: "namespace " + quote(name), Problem: "cannot be read now: " + cut(err.Error())}
	}
	return ns, nil
}

func refused(pod string, err error) verdict {
	reason := Malformed
	if refusal, ok := errors.AsType[*Refusal](err); ok { // of several, the first counts
		reason = refusal.Reason
	}
	return verdict{
		Response: admission.Response{Message: strings.ReplaceAll(err.Error(), "\n", "; ")},
		outcome:  outcomeRefused, reason: reason, pod: pod, err: err,
	}
}
