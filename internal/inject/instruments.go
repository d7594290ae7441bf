package inject

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// injectorMetrics are what an injector counts.
type injectorMetrics struct {
	reviews    *prometheus.CounterVec
	seconds    prometheus.Histogram
	phases     *prometheus.HistogramVec
	unread     *prometheus.CounterVec
	patch      prometheus.Histogram
	reloads    *prometheus.CounterVec
	reloadOK   prometheus.Gauge
	reloadTime prometheus.Gauge
}

func newInjectorMetrics(registry prometheus.Registerer) injectorMetrics {
	buckets := prometheus.ExponentialBucketsRange(50e-6, 1, 14)
	m := injectorMetrics{
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sidecar_injection_phase_seconds",
			Help: "Time that one request spent in each phase: waiting, reading, decoding, deciding, encoding.", Buckets: buckets,
		}, []string{"phase"}),
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
		unread: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sidecar_injection_unread_requests_total",
			Help: "Requests that were answered without a decision, by HTTP status: no reviews, too large, or more than could be served in time.",
		}, []string{"code"}),
	}
	m.reloadOK.Set(1)
	registry.MustRegister(m.reviews, m.seconds, m.phases, m.unread, m.patch, m.reloads, m.reloadOK, m.reloadTime)
	return m
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
