package ca

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	securityapi "istio.io/api/security/v1alpha1"
)

// What strangers write stays within a line, tokens and keys stay out, and no identity is
// the label of a metric.
func abuseLog(t *testing.T) {
	var out bytes.Buffer
	var kept book
	registry := prometheus.NewRegistry()
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	service := NewService(a, asSleep, ServiceOptions{Log: log, Metrics: NewMetrics(registry, a)})
	mustObtain(t, bearing(t, token), service)
	_, _ = obtain(t, bearing(t, "secret\nlevel=INFO msg=issued"), service)
	for _, text := range []string{
		csr(t, ecdsaKey(t, elliptic.P256()), x509.CertificateRequest{URIs: []*url.URL{{Scheme: "spiffe", Opaque: "x\nlevel=INFO"}}}),
		"-----BEGIN X\nmsg=issued-----\n", csrFor(t, httpbinID), inPEM("EVIL\x1b[2J", []byte("x")),
	} {
		if _, err := service.CreateCertificate(bearing(t, token), &securityapi.IstioCertificateRequest{Csr: text}); err == nil {
			t.Error("issued")
		}
	}
	if got := strings.Count(out.String(), "\n"); got != 6 || strings.Count(out.String(), "\nlevel") > 5 {
		t.Errorf("%d lines for 6 requests:\n%s", got, out.String())
	}
	everything := out.String()
	for _, e := range kept.entries {
		everything += fmt.Sprintf("%+v", e)
	}
	for _, secret := range []string{token, "secret", "PRIVATE KEY", "\x1b"} {
		if strings.Contains(everything, secret) {
			t.Errorf("%q is in the log or the record", secret)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			for _, l := range m.Label {
				if strings.Contains(l.GetValue(), "sleep") || strings.Contains(l.GetValue(), "spiffe") {
					t.Errorf("%s has label %s", family.GetName(), l)
				}
			}
		}
	}
}
