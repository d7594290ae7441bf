package cluster

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Failure sorts why no Secret was made, for the metrics. Most values are those of the label
// error that Istio's dashboards know.
type Failure string

// Istio's other values cannot be: the requests are Citadel's own, and so are the lifetimes.
const (
	NoFailure Failure = "" // the account is revoked: none is due
	NotReady  Failure = "CA_NOT_READY"
	NotSigned Failure = "CERT_GEN_ERROR"
	NoRequest Failure = "no request" // no key or no CSR, which has a counter of its own
)

// secretMetrics are those of the loop over Secrets; those that begin with
// citadel_secret_controller are named as Istio's Citadel named them.
type secretMetrics struct {
	changes  *prometheus.CounterVec
	blocked  prometheus.Gauge
	scrubbed prometheus.Counter
	scrubEnd prometheus.Gauge
	spoilt   prometheus.Counter

	accountCreated prometheus.Counter
	accountDeleted prometheus.Counter
	secretDeleted  prometheus.Counter
	unrequested    prometheus.Counter
	unsigned       *prometheus.CounterVec // by Failure
}

func newSecretMetrics(r prometheus.Registerer) (m secretMetrics, err error) {
	var errs []error
	counter := func(name, help string) prometheus.Counter {
		c, err := registered(r, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
		errs = append(errs, err)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g, err := registered(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
		errs = append(errs, err)
		return g
	}
	m.changes, err = registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "citadel_workload_secret_changes_total",
		Help: "Secrets of service accounts that were created, renewed, repaired or removed.",
	}, []string{"change"}))
	errs = append(errs, err)
	m.blocked = gauge("citadel_workload_secrets_blocked",
		"Service accounts without a certificate because a Secret of another type has its name.")
	m.scrubbed = counter("citadel_workload_secrets_scrubbed_total", "Secrets whose content was checked in passing over all of them.")
	m.scrubEnd = gauge("citadel_workload_secret_scrub_timestamp_seconds", "When the last check of all Secrets ended, as Unix time.")
	m.spoilt = counter("citadel_workload_secrets_spoilt_total", "Secrets of service accounts that were found spoilt by their content.")
	m.accountCreated = counter("citadel_secret_controller_svc_acc_created_cert_count", "Certificates made because there was none for a service account.")
	m.accountDeleted = counter("citadel_secret_controller_svc_acc_deleted_cert_count", "Certificates that went because their service account did.")
	m.secretDeleted = counter("citadel_secret_controller_secret_deleted_cert_count", "Certificates made anew because their Secret was deleted.")
	m.unrequested = counter("citadel_secret_controller_csr_err_count", "Secrets that could not be made because there was no key or no request for them.")
	m.unsigned, err = registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "citadel_secret_controller_csr_sign_err_count",
		Help: "Secrets that could not be made because there was no good certificate for them, by reason.",
	}, []string{"error"}))
	errs = append(errs, err)
	for _, f := range []Failure{NotReady, NotSigned} {
		m.unsigned.WithLabelValues(string(f)) // a series from the start, so that rates are right
	}
	return m, errors.Join(errs...)
}

func (m secretMetrics) failed(f Failure) {
	switch f {
	case NoFailure:
	case NoRequest:
		m.unrequested.Inc()
	default:
		m.unsigned.WithLabelValues(string(f)).Inc()
	}
}
