package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// registerProcess registers what belongs to the process as a whole: the certificate that
// it serves with, and whether its record can be written.
func registerProcess(r prometheus.Registerer, serving *serve.Certificate, authority *ca.Authority, recordReady func() error) {
	serving.Register(r, authority.SecretOverdue)
	promauto.With(r).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "citadel_issuance_log_unwritable",
		Help: "1 while nothing is issued because it could not be put on record.",
	}, func() float64 {
		if recordReady() != nil {
			return 1
		}
		return 0
	})
}

// newLeading returns the gauge of who keeps Secrets, ConfigMaps and the CA.
func newLeading(r prometheus.Registerer) prometheus.Gauge {
	return promauto.With(r).NewGauge(prometheus.GaugeOpts{
		Name: "citadel_leader", Help: "1 while this replica holds the lease, and keeps Secrets and ConfigMaps.",
	})
}
