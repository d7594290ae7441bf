package ca

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/ledger"
)

func TestMetrics(t *testing.T) {
	a, _ := open(t, time.Now().Truncate(time.Second), Options{})
	registry := prometheus.NewRegistry()
	service := NewService(a, asSleep, ServiceOptions{Metrics: NewMetrics(registry, a)})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	if _, err := service.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t)}); err != nil {
		t.Fatal(err)
	}
	signer, _ := a.Expiry()
	want := fmt.Sprintf(`
# HELP citadel_server_csr_count Certificate requests received.
# TYPE citadel_server_csr_count counter
citadel_server_csr_count 1
# HELP citadel_server_root_cert_expiry_timestamp When the first of these certificates ends, in seconds since 1970.
# TYPE citadel_server_root_cert_expiry_timestamp gauge
citadel_server_root_cert_expiry_timestamp %v
# HELP citadel_server_success_cert_issuance_count Certificates issued on request.
# TYPE citadel_server_success_cert_issuance_count counter
citadel_server_success_cert_issuance_count 1
`, float64(signer.Unix()))
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "citadel_server_csr_count",
		"citadel_server_root_cert_expiry_timestamp", "citadel_server_success_cert_issuance_count"); err != nil {
		t.Error(err)
	}
}

// Each refusal is counted by its rule, and at most once under a name of Istio's: as a
// failure to authenticate what is one, and nothing else.
func TestRefusalsAreCountedOnce(t *testing.T) {
	const (
		unproven  = "authentication_failure_count"
		malformed = "csr_parsing_err_count"
		misnamed  = "id_extraction_err_count"
		unsigned  = "csr_sign_err_count"
	)
	where := map[Rule]string{
		RuleToken: unproven, RuleTokenSize: unproven, RuleTokenPod: unproven, RuleCertificateRoot: unproven, RuleCertificateName: unproven,
		RuleCertificateKind: unproven, RuleCertificateAge: unproven, RuleCertificatePod: unproven,
		RuleImpersonator: unproven, RuleImpersonated: unproven, RuleImpersonatedNode: unproven,
		RuleCSR: malformed, RuleCSRKey: malformed, RuleCSRAlgorithm: malformed, RuleCSRName: misnamed,
		RuleAccount: unsigned, RuleSigner: unsigned, RuleCSRPossession: unsigned, RuleTTL: unsigned,
		RuleIssuer: unsigned, RuleRecord: unsigned, RuleRevocations: unsigned, RuleInternal: unsigned,
		RuleRevoked: "", RuleBusy: "", RuleUnavailable: "", RuleCanceled: "",
	}
	for _, name := range rulesInCode(t) {
		if _, ok := where[Rule(name)]; !ok {
			t.Errorf("%s: nobody says where it is counted", name)
		}
	}
	a, _ := open(t, time.Now(), Options{})
	for rule, want := range where {
		registry := prometheus.NewRegistry()
		NewMetrics(registry, a).refuse(rule)
		if got := counted(t, registry); got["refusals_total"] != 1 {
			t.Errorf("%s: %v", rule, got)
		} else if delete(got, "refusals_total"); want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[want] != 1) {
			t.Errorf("%s is counted as %v, want %q", rule, got, want)
		}
	}
}

// counted returns the counters of the service that are not zero, labels added up.
func counted(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			if name, ok := strings.CutPrefix(family.GetName(), "citadel_server_"); ok && m.GetCounter().GetValue() > 0 {
				sums[name] += m.GetCounter().GetValue()
			}
		}
	}
	return sums
}

// unhurried takes its time over turns and the record.
type unhurried struct{ turn, record time.Duration }

func (s unhurried) Enter(context.Context, identity.ID, string, time.Time) (leave func(), err error) {
	time.Sleep(s.turn)
	return func() {}, nil
}

func (unhurried) Issued(identity.ID, string, time.Time) {}

func (s unhurried) Append(ledger.Entry) error {
	time.Sleep(s.record)
	return nil
}

// Each phase has its own time and nobody else's.
func TestPhasesOfARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unhurried{turn: 2 * time.Second, record: 4 * time.Second}
		a, _ := open(t, time.Now(), Options{Recorder: s})
		registry := prometheus.NewRegistry()
		auth := func(ctx context.Context, token string) (Caller, error) {
			time.Sleep(time.Second)
			return asSleep(ctx, token)
		}
		mustObtain(t, bearing(t, token), NewService(a, auth, ServiceOptions{Gate: s, Metrics: NewMetrics(registry, a)}))
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == "citadel_csr_phase_seconds" && m.Histogram.GetSampleCount() == 1 {
					got[m.Label[0].GetValue()] = m.Histogram.GetSampleSum()
				}
			}
		}
		if diff := cmp.Diff(map[string]float64{"authenticate": 1, "queue": 2, "sign": 0, "record": 4}, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// What Istio's dashboards draw is there from the start, and each rule counts once.
func TestUnsignedByReason(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	m := NewMetrics(prometheus.NewRegistry(), a)
	if n := testutil.CollectAndCount(m.unsigned); n != 4 {
		t.Errorf("%d series at the start, want 4", n)
	}
	for reason, rules := range map[string][]Rule{
		csrError:      {RuleCSRPossession, RuleSigner},
		ttlError:      {RuleTTL},
		notReadyError: {RuleIssuer, RuleRecord, RuleRevocations},
		signError:     {RuleInternal, RuleAccount},
	} {
		for _, rule := range rules {
			m.refuse(rule)
		}
		if n := testutil.ToFloat64(m.unsigned.WithLabelValues(reason)); n != float64(len(rules)) {
			t.Errorf("%s: %v, want %d", reason, n, len(rules))
		}
	}
}
