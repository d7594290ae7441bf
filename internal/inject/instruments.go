package inject

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The phases of one review, for metrics.
const (
	phaseDecode = "decode"
	phaseDecide = "decide"
	phaseEdit   = "edit"
)

// injectorMetrics are what an injector counts.
type injectorMetrics struct {
	reviews    *prometheus.CounterVec
	seconds    prometheus.Histogram
	phases     map[string]prometheus.Observer
	patch      prometheus.Histogram
	reloads    *prometheus.CounterVec
	reloadOK   prometheus.Gauge
	reloadTime prometheus.Gauge
}

func newInjectorMetrics(registry prometheus.Registerer) injectorMetrics {
	buckets := prometheus.ExponentialBucketsRange(50e-6, 1, 14)
	phases := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sidecar_injection_phase_seconds",
		Help: "Time that one review of a pod spent in each phase of the decision.", Buckets: buckets,
	}, []string{"phase"})
	m := injectorMetrics{
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sidecar_injection_requests_total",
			Help: "Admission reviews of pods by what became of them and why.",
		}, []string{"outcome", "reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sidecar_injection_time_seconds",
			Help: "Time to decide on one pod and make its patch.", Buckets: buckets,
		}),
		patch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sidecar_injection_patch_bytes",
			Help: "Size of the patches that injected pods were given.", Buckets: prometheus.ExponentialBuckets(1<<10, 2, 10),
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "injector_overlays_reloads_total",
			Help: "Times that the overlays were read anew, by result: taken, or refused and the former kept.",
		}, []string{"result"}),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "injector_overlays_last_reload_successful",
			Help: "Whether the overlays in force are those of the ConfigMap: 1, or 0 where the last ones were refused.",
		}),
		reloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "injector_overlays_last_reload_success_timestamp_seconds",
			Help: "When the overlays in force were taken, in seconds since 1970; 0 while there are none.",
		}),
		phases: map[string]prometheus.Observer{},
	}
	for _, phase := range []string{phaseDecode, phaseDecide, phaseEdit} {
		m.phases[phase] = phases.WithLabelValues(phase)
	}
	m.reloadOK.Set(1)
	registry.MustRegister(m.reviews, m.seconds, phases, m.patch, m.reloads, m.reloadOK, m.reloadTime)
	return m
}

// phase begins a phase; calling what it returns ends it.
func (m injectorMetrics) phase(name string) func() {
	begin := time.Now()
	return func() { m.phases[name].Observe(time.Since(begin).Seconds()) }
}

func (m injectorMetrics) reloaded(err error, now time.Time) {
	if err != nil {
		m.reloads.WithLabelValues("refused").Inc()
		m.reloadOK.Set(0)
		return
	}
	m.reloads.WithLabelValues("taken").Inc()
	m.reloadOK.Set(1)
	m.reloadTime.Set(float64(now.Unix()))
}
