package main

import (
	"crypto/x509"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// registerProcess registers what belongs to the process as a whole: the certificate that
// it serves with, and whether its record can be written.
func registerProcess(r prometheus.Registerer, serving *serve.Certificate, authority *ca.Authority, recordReady func() error) {
	f := promauto.With(r)
	moment := func(name, help string, of func(*x509.Certificate) time.Time) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help + ", in seconds since 1970; 0 while there is none."}, func() float64 {
			if leaf := serving.Leaf(); leaf != nil {
				return float64(of(leaf).Unix())
			}
			return 0
		})
	}
	moment("serving_certificate_not_after_seconds", // as the injector has it
		"When the serving certificate expires", func(leaf *x509.Certificate) time.Time { return leaf.NotAfter })
	moment("serving_certificate_overdue_seconds",
		"From when on the serving certificate should have been replaced long ago", authority.SecretOverdue)
	f.NewGaugeFunc(prometheus.GaugeOpts{
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
