package ca

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// phase is a part of the way from a request to a certificate.
type phase int

const (
	phaseAuthenticate phase = iota
	phaseQueue
	phaseSign // from the CSR's text to the inspected certificate
	phaseRecord
)

func (p phase) String() string { return [...]string{"authenticate", "queue", "sign", "record"}[p] }

// phases measures where the time of requests goes.
type phases struct {
	seconds [phaseRecord + 1]prometheus.Observer
}

func newPhases(r prometheus.Registerer) *phases {
	seconds := promauto.With(r).NewHistogramVec(prometheus.HistogramOpts{
		Name: "citadel_csr_phase_seconds", Help: "How long requests spend on their way to a certificate, by phase.",
		Buckets: []float64{50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1, 2, 5},
	}, []string{"phase"})
	p := new(phases)
	for i := range p.seconds {
		p.seconds[i] = seconds.WithLabelValues(phase(i).String())
	}
	return p
}

// start begins a request's first phase.
func (*phases) start() time.Time { return time.Now() }

// observe ends a phase that began at a time, and begins the next. A nil *phases does
// nothing.
func (p *phases) observe(ended phase, began time.Time) time.Time {
	if p == nil {
		return time.Time{}
	}
	now := time.Now()
	p.seconds[ended].Observe(now.Sub(began).Seconds())
	return now
}
