package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// dashboardSeries are those that dashboards for Citadel 1.1 and for istiod's CA ask for.
func dashboardSeries() []string {
	return []string{
		"citadel_server_csr_count", "citadel_server_authentication_failure_count", "citadel_server_csr_parsing_err_count",
		"citadel_server_id_extraction_err_count", "citadel_server_success_cert_issuance_count",
		`citadel_server_csr_sign_err_count{error="CA_NOT_READY"}`, `citadel_server_csr_sign_err_count{error="CSR_ERROR"}`,
		`citadel_server_csr_sign_err_count{error="TTL_ERROR"}`, `citadel_server_csr_sign_err_count{error="CERT_GEN_ERROR"}`,
		"citadel_server_root_cert_expiry_timestamp", "citadel_server_root_cert_expiry_seconds",
		"citadel_server_cert_chain_expiry_timestamp", "citadel_server_cert_chain_expiry_seconds",
	}
}

// leaderSeries are those of them that only the leader has.
func leaderSeries() []string {
	return []string{
		"citadel_secret_controller_svc_acc_created_cert_count", "citadel_secret_controller_svc_acc_deleted_cert_count",
		"citadel_secret_controller_secret_deleted_cert_count", "citadel_secret_controller_csr_err_count",
		`citadel_secret_controller_csr_sign_err_count{error="CA_NOT_READY"}`, `citadel_secret_controller_csr_sign_err_count{error="CERT_GEN_ERROR"}`,
	}
}

var metricInRule = regexp.MustCompile(`\b(citadel|serving_certificate)_[a-z_]+`)

// expectScrapes holds what replicas really write to what dashboards and alerts ask for:
// each what is asked of all, one of them what is asked of the leader.
func expectScrapes(t *testing.T, replicas ...replica) {
	t.Helper()
	rules, err := os.ReadFile("../../manifests/monitoring/citadel.yaml")
	if err != nil {
		t.Fatal(err)
	}
	every, leading := dashboardSeries(), append(leaderSeries(), "citadel_leader 1")
	for _, name := range metricInRule.FindAllString(string(rules), -1) {
		if strings.HasPrefix(name, "citadel_secret_controller_") || strings.HasPrefix(name, "citadel_workload_secrets_") {
			leading = append(leading, name)
		} else {
			every = append(every, name)
		}
	}
	lacks := func(ctx context.Context, r replica, names []string) (missing []string, err error) {
		text, err := r.get(ctx, "/metrics")
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return strings.Contains(text, "\n"+name+" ") || strings.Contains(text, "\n"+name+"{") || strings.Contains(text, "\n"+name+"\n")
		}), err
	}
	for _, r := range replicas {
		if missing, err := lacks(t.Context(), r, every); err != nil || len(missing) > 0 {
			t.Errorf("%s lacks %q, %v", r.name, missing, err)
		}
	}
	eventually(t, "one replica has what the leader has", func(ctx context.Context) error {
		var errs []error
		for _, r := range replicas {
			missing, err := lacks(ctx, r, leading)
			if err == nil && len(missing) == 0 {
				return nil
			}
			errs = append(errs, fmt.Errorf("%s lacks %q, %w", r.name, missing, err))
		}
		return errors.Join(errs...)
	})
}

func TestProcessMetrics(t *testing.T) {
	var serving serve.Certificate
	var unwritable error
	r := prometheus.NewRegistry()
	authority, _ := newAuthority(t)
	registerProcess(r, &serving, authority, func() error { return unwritable })
	expect := func(unwritable int, notAfter, overdue int64) {
		t.Helper()
		if err := testutil.GatherAndCompare(r, strings.NewReader(fmt.Sprintf(`
# HELP citadel_issuance_log_unwritable 1 while nothing is issued because it could not be put on record.
# TYPE citadel_issuance_log_unwritable gauge
citadel_issuance_log_unwritable %d
# HELP serving_certificate_not_after_seconds When the serving certificate expires, in seconds since 1970; 0 while there is none.
# TYPE serving_certificate_not_after_seconds gauge
serving_certificate_not_after_seconds %v
# HELP serving_certificate_overdue_seconds From when on the serving certificate should have been replaced long ago, in seconds since 1970; 0 while there is none.
# TYPE serving_certificate_overdue_seconds gauge
serving_certificate_overdue_seconds %v
`, unwritable, float64(notAfter), float64(overdue)))); err != nil {
			t.Error(err)
		}
	}
	expect(0, 0, 0)
	own, err := authority.NewSecret(mesh.ServiceAccount{Namespace: "a", Name: "b", UID: "1"}, time.Now())
	if err == nil {
		err = serving.Set(own.Data[mesh.CertChain], own.Data[mesh.CertKey], time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	unwritable = errors.New("disk full")
	ends := serving.Leaf().NotAfter
	expect(1, ends.Unix(), ends.Add(-ca.DefaultSecretTTL/4).Unix())
}

// full is a record that nothing fits into.
type full struct{}

func (full) Append(ledger.Entry) error { return errors.New("disk full") }

// Why a Secret was not made is sorted as Istio's dashboards know it: what is not the
// account's fault and passes, what is neither, and what is no failure at all.
func TestFailureOfASecret(t *testing.T) {
	account := mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "1"}
	revoked := new(ca.Revocations)
	if _, err := revoked.Set(&corev1.ConfigMap{Data: map[string]string{
		mesh.RevocationsKey: "- {id: spiffe://cluster.local/ns/shop/sa/cart, reason: stolen}",
	}}); err != nil {
		t.Fatal(err)
	}
	root, err := ca.NewRoot(ca.RootOptions{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options ca.Options
		account mesh.ServiceAccount
		after   time.Duration
		want    cluster.Failure
	}{
		"root that ended":       {account: account, after: 11 * 365 * 24 * time.Hour, want: cluster.NotReady},
		"record is full":        {options: ca.Options{Recorder: full{}}, account: account, want: cluster.NotReady},
		"revocations unread":    {options: ca.Options{Revocations: new(ca.Revocations)}, account: account, want: cluster.NotReady},
		"account is revoked":    {options: ca.Options{Revocations: revoked}, account: account, want: cluster.NoFailure},
		"account without an ID": {account: mesh.ServiceAccount{Namespace: "shop", Name: "Ä"}, want: cluster.NotSigned},
	} {
		t.Run(name, func(t *testing.T) {
			authority, err := ca.Open(root, c.options)
			if err != nil {
				t.Fatal(err)
			}
			_, err = authority.NewSecret(c.account, time.Now().Add(c.after))
			if got := failure(err); err == nil || got != c.want {
				t.Errorf("%v: %q, want %q", err, got, c.want)
			}
		})
	}
}
