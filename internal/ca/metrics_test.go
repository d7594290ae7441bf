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

// failures adds up all counters of requests that did not get a certificate, and
// checks that the others agree.
func failures(t *testing.T, g prometheus.Gatherer) (sum float64) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			switch name, value := family.GetName(), m.GetCounter().GetValue(); name {
			case "citadel_server_csr_count":
				if value != 1 {
					t.Errorf("%s %v, want 1", name, value)
				}
			case "citadel_server_success_cert_issuance_count":
				if value != 0 {
					t.Errorf("%s %v, want 0", name, value)
				}
			case "citadel_server_authentication_failure_count", "citadel_server_csr_parsing_err_count",
				"citadel_server_id_extraction_err_count", "citadel_server_csr_sign_err_count":
				sum += value
			}
		}
	}
	return sum
}
