package ca

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Values of the label error of citadel_server_csr_sign_err_count, as Istio's
// dashboards know them.
const (
	notReadyError = "CA_NOT_READY"
	csrError      = "CSR_ERROR"
	ttlError      = "TTL_ERROR"
	signError     = "CERT_GEN_ERROR"
)

// Metrics counts what the service does, under the names of Istio's CA.
type Metrics struct {
	requests  prometheus.Counter
	unproven  prometheus.Counter
	malformed prometheus.Counter
	misnamed  prometheus.Counter
	unsigned  *prometheus.CounterVec // by error
	issued    prometheus.Counter
	shortened prometheus.Counter
	phases    *phases

	refused    *prometheus.CounterVec // by rule
	unrecorded prometheus.Counter
}

// NewMetrics registers the counters of a service and the expiry of authority's
// certificates with r.
func NewMetrics(r prometheus.Registerer, authority *Authority) *Metrics {
	f := promauto.With(r)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Namespace: "citadel", Subsystem: "server", Name: name, Help: help})
	}
	m := &Metrics{
		requests:  counter("csr_count", "Certificate requests received."),
		unproven:  counter("authentication_failure_count", "Requests whose sender was not proven, or asked for the identity of another."),
		malformed: counter("csr_parsing_err_count", "Requests whose CSR was not acceptable."),
		misnamed:  counter("id_extraction_err_count", "Requests whose CSR claims another identity than its sender's."),
		phases:    newPhases(r),
		issued:    counter("success_cert_issuance_count", "Certificates issued on request."),
		shortened: counter("shortened_cert_issuance_count",
			"Certificates issued on request for less time than it asked for, because the signing certificate or a root ends, or there is no pod."),
		unsigned: f.NewCounterVec(prometheus.CounterOpts{
			Namespace: "citadel", Subsystem: "server", Name: "csr_sign_err_count",
			Help: "Acceptable requests that were not signed, by reason.",
		}, []string{"error"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Namespace: "citadel", Subsystem: "server", Name: "refusals_total",
			Help: "Requests refused, by the rule that they broke.",
		}, []string{"rule"}),
		unrecorded: counter("unrecorded_refusals_total", "Refusals that are neither logged nor in the record but as a number, because there were too many."),
	}
	for _, reason := range []string{notReadyError, csrError, ttlError, signError} {
		m.unsigned.WithLabelValues(reason) // a series from the start, so that rates are right
	}
	if r != nil {
		r.MustRegister(newCertificates(authority))
	}
	revocations := authority.options.Revocations
	f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "citadel", Subsystem: "server", Name: "revocations_age_seconds",
		Help: "How old the list of the revoked may be at most; beyond the revocation window nothing is issued."},
		func() float64 { return revocations.age().Seconds() })
	f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "citadel", Subsystem: "server", Name: "revocations_not_applied",
		Help: "1 while the list of the revoked cannot be read to the letter, or bars what Citadel itself serves as."},
		func() float64 {
			if revocations.applied(time.Now()) {
				return 0
			}
			return 1
		})
	signer := func() time.Time { t, _ := authority.Expiry(); return t }
	root := func() time.Time { _, t := authority.Expiry(); return t }
	for name, expiry := range map[string]func() time.Time{"cert_chain_expiry": signer, "root_cert_expiry": root} {
		gauge := func(suffix, help string, value func() float64) {
			f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "citadel", Subsystem: "server", Name: name + suffix, Help: help}, value)
		}
		gauge("_timestamp", "When the first of these certificates ends, in seconds since 1970.",
			func() float64 { return float64(expiry().Unix()) })
		gauge("_seconds", "Seconds until the first of these certificates ends.",
			func() float64 { return time.Until(expiry()).Seconds() })
	}
	return m
}

// refuse counts a refusal by its rule, and where Istio's dashboards look for it.
func (m *Metrics) refuse(rule Rule) {
	m.refused.WithLabelValues(string(rule)).Inc()
	switch rule {
	case RuleCSR, RuleCSRKey, RuleCSRAlgorithm:
		m.malformed.Inc()
	case RuleCSRName:
		m.misnamed.Inc()
	case RuleCSRPossession, RuleSigner:
		m.unsigned.WithLabelValues(csrError).Inc()
	case RuleTTL:
		m.unsigned.WithLabelValues(ttlError).Inc()
	case RuleIssuer, RuleRecord, RuleRevocations:
		m.unsigned.WithLabelValues(notReadyError).Inc()
	case RuleInternal, RuleAccount:
		m.unsigned.WithLabelValues(signError).Inc()
	case RuleToken, RuleTokenSize, RuleTokenPod, RuleImpersonator, RuleImpersonated, RuleImpersonatedNode,
		RuleCertificateRoot, RuleCertificateName, RuleCertificateKind, RuleCertificateAge, RuleCertificatePod:
		m.unproven.Inc()
	case RuleRevoked, RuleBusy, RuleUnavailable, RuleCanceled: // of which Istio counts none
	}
}
