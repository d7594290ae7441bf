package cluster

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// errorCounts are what the metrics say of Secrets that could not be made, by the end of
// the name and the reason.
func errorCounts(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, family := range families {
		name, ok := strings.CutPrefix(family.GetName(), "citadel_secret_controller_")
		if !ok || !strings.HasSuffix(name, "err_count") {
			continue
		}
		for _, m := range family.GetMetric() {
			words := []string{name}
			for _, label := range m.GetLabel() {
				words = append(words, label.GetValue())
			}
			counts[strings.Join(words, " ")] += m.GetCounter().GetValue()
		}
	}
	return counts
}

// A Secret that is not made is counted where its reason belongs, once for each attempt.
func TestSecretsThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		failure Failure
		check   error // of what was made; nil: nothing is made
		due     bool  // what was made is good, and due already
		counted string
	}{
		"not ready":         {NotReady, nil, false, "csr_sign_err_count CA_NOT_READY"},
		"not signed":        {NotSigned, nil, false, "csr_sign_err_count CERT_GEN_ERROR"},
		"not good":          {NotReady, errors.New("not what I asked for"), false, "csr_sign_err_count CERT_GEN_ERROR"},
		"due already":       {NotReady, nil, true, "csr_sign_err_count CERT_GEN_ERROR"},
		"no key":            {NoRequest, nil, false, "csr_err_count"},
		"revoked meanwhile": {NoFailure, nil, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api, k := shop(t), keeper(t)
				k.Log = nil
				attempts, why, mk := 0, errors.New("no certificate"), k.Make
				k.Make = func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) {
					attempts++
					if c.check != nil || c.due {
						return mk(account, now)
					}
					return nil, why
				}
				k.Check = func(mesh.ServiceAccount, *corev1.Secret, time.Time) (time.Time, error) { return time.Now(), c.check }
				k.Failure = func(err error) Failure {
					if !errors.Is(err, why) {
						t.Errorf("asked about %v", err)
					}
					return c.failure
				}
				stop := run(t, api.KeepSecrets(k))
				lapse(time.Second)
				stop()
				if attempts < 2 {
					t.Fatalf("%d attempts", attempts)
				}
				got := errorCounts(t, k.Metrics.(prometheus.Gatherer))
				want := map[string]float64{"csr_err_count": 0, "csr_sign_err_count CA_NOT_READY": 0, "csr_sign_err_count CERT_GEN_ERROR": 0}
				if c.counted != "" {
					want[c.counted] = float64(attempts)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}
