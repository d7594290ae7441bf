package ca

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"
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
