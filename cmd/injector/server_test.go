package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/admission"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
	"github.com/garrison-mesh/garrison/internal/serve"
)

const dnsName = "istio-sidecar-injector.istio-system.svc"

// issued is a Secret as Citadel would write it, of a root of its own.
func issued(t *testing.T, serial int64) *corev1.Secret {
	t.Helper()
	return issuedFor(t, serial, dnsName)
}

func issuedFor(t *testing.T, serial int64, name string) *corev1.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"test"}}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour + time.Duration(serial)*time.Minute),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: mesh.WorkloadSecret(mesh.ServerAccount(mesh.InjectorService))},
		Data: map[string][]byte{
			mesh.CertChain: chain, mesh.CertRoot: chain,
			mesh.CertKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		},
	}
}

// named is a namespace that says nothing.
func named(_ context.Context, name string) (mesh.Namespace, error) {
	return mesh.Namespace{Name: name}, nil
}

// server serves what run serves, on a free port, and returns its URL.
func server(t *testing.T, own *credentials) string {
	t.Helper()
	c, err := parse([]string{"--settings=" + file(t, "image: garrison/proxy:test\n")}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	addr := meshtest.Address(t)
	log := slog.New(slog.DiscardHandler)
	handler := router(inject.NewInjector(inject.Config{Settings: c.settings, Namespace: named, Log: log, Metrics: prometheus.NewRegistry()}), c.limits, log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.HTTP{Addr: addr, Handler: handler, TLS: own.certificate.TLS("h2", "http/1.1"), Linger: -1}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for { // until it listens
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			return "https://" + addr
		}
		select {
		case err := <-ended:
			ended <- nil
			t.Fatal("the server ended: ", err)
		default:
		}
	}
}

// caller is an API server that knows the roots given.
func caller(roots []byte, http2 bool) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: dnsName}, ForceAttemptHTTP2: http2, DisableKeepAlives: true,
	}}
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Error(err)
	}
	return string(text)
}

const review = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","operation":"CREATE",
"resource":{"group":"","version":"v1","resource":"pods"},"object":{"metadata":{},"spec":{"containers":[{"name":"a"}]}}}}`

func TestCertificateIsReplacedWithoutRestart(t *testing.T) {
	var lines bytes.Buffer
	metrics := prometheus.NewRegistry()
	own := newCredentials(dnsName, slog.New(slog.NewTextHandler(&lines, nil)), metrics)
	own.settle = 0 // TestCASwap waits
	url := server(t, own)
	first, second := issued(t, 1), issued(t, 2)
	ask := func(roots []byte, http2 bool) (*http.Response, error) {
		r, err := caller(roots, http2).Post(url+mesh.InjectPath, "application/json", strings.NewReader(review))
		if err == nil {
			if text := body(t, r); r.StatusCode != 200 || !strings.Contains(text, `"patch":"`) {
				t.Errorf("%d %s", r.StatusCode, text)
			}
		}
		return r, err
	}
	expect := func(s *corev1.Secret, bundle ...[]byte) {
		t.Helper()
		for _, http2 := range []bool{false, true} {
			r, err := ask(s.Data[mesh.CertRoot], http2)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{false: 1, true: 2}[http2]; r.ProtoMajor != want {
				t.Errorf("HTTP/%d, want %d", r.ProtoMajor, want)
			}
		}
		if want := slices.Concat(bundle...); !bytes.Equal(own.bundle(), want) {
			t.Errorf("bundle %s, want %s", own.bundle(), want)
		}
	}
	spoilt := map[string]*corev1.Secret{}
	for what, spoil := range map[string]func(*corev1.Secret){
		"a key that is another's":   func(s *corev1.Secret) { s.Data[mesh.CertKey] = second.Data[mesh.CertKey] },
		"roots that are another's":  func(s *corev1.Secret) { s.Data[mesh.CertRoot] = second.Data[mesh.CertRoot] },
		"no roots":                  func(s *corev1.Secret) { delete(s.Data, mesh.CertRoot) },
		"roots that are no PEM":     func(s *corev1.Secret) { s.Data[mesh.CertRoot] = []byte("roots") },
		"no chain":                  func(s *corev1.Secret) { s.Data[mesh.CertChain] = nil },
		"another server's identity": func(s *corev1.Secret) { *s = *issuedFor(t, 3, "istio-citadel.istio-system.svc") },
	} {
		spoilt[what] = issued(t, 3)
		spoil(spoilt[what])
	}

	expectLifetime(t, metrics, nil)
	own.update(nil)
	if _, err := ask(first.Data[mesh.CertRoot], false); err == nil || own.certificate.Ready() == nil {
		t.Error("serves and is ready without a certificate")
	}
	own.update(first)
	root1, root2 := first.Data[mesh.CertRoot], second.Data[mesh.CertRoot]
	expect(first, root1)
	expectLifetime(t, metrics, first)
	for what, secret := range spoilt {
		own.update(secret)
		if own.certificate.Leaf().SerialNumber.Int64() != 1 || !bytes.Equal(own.bundle(), root1) {
			t.Errorf("took a Secret with %s", what)
		}
	}
	own.update(nil) // deleted
	expect(first, root1)
	own.update(second)
	expect(second, root2, root1)
	expectLifetime(t, metrics, second)
	if _, err := ask(first.Data[mesh.CertRoot], false); err == nil {
		t.Error("still serves the first certificate")
	}
	select {
	case <-own.changed:
	default:
		t.Error("no word of the new bundle")
	}
	if key := string(second.Data[mesh.CertKey]); strings.Contains(lines.String(), strings.Split(key, "\n")[1]) {
		t.Error("a private key is in the log")
	}
}

// expectLifetime compares the metrics with when the Secret's certificate, of an hour or so,
// ends and is overdue, or with 0 for none.
func expectLifetime(t *testing.T, metrics *prometheus.Registry, secret *corev1.Secret) {
	t.Helper()
	var ends, overdue int64
	if secret != nil {
		block, _ := pem.Decode(secret.Data[mesh.CertChain])
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		ends, overdue = leaf.NotAfter.Unix(), leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore)/20).Unix()
	}
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(fmt.Sprintf(`
# HELP serving_certificate_not_after_seconds When the serving certificate expires, in seconds since 1970; 0 while there is none.
# TYPE serving_certificate_not_after_seconds gauge
serving_certificate_not_after_seconds %v
# HELP serving_certificate_overdue_seconds From when on the serving certificate should have been replaced long ago, in seconds since 1970; 0 while there is none.
# TYPE serving_certificate_overdue_seconds gauge
serving_certificate_overdue_seconds %v
`, float64(ends), float64(overdue)))); err != nil {
		t.Error(err)
	}
}

// A pod may name an overlay that has not been read yet.
func TestReadyWithOverlays(t *testing.T) {
	for name, m := range map[string]*corev1.ConfigMap{"none": nil, "good": {Data: map[string]string{"debug": "spec: {}"}}, "wrong": {Data: map[string]string{"debug": "sepc: {}"}}} {
		c, err := parse([]string{"--settings=" + file(t, "image: garrison/proxy:test\n")}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		o := &overlays{changed: newWord(), injector: inject.NewInjector(inject.Config{
			Settings: c.settings, Namespace: named, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		})}
		if o.ready() == nil {
			t.Error("ready before the overlays were read")
		}
		o.take(m)
		if err := o.ready(); err != nil || len(o.changed) != 1 {
			t.Errorf("%s: %v, %d words", name, err, len(o.changed))
		}
		if got, want := len(o.injector.Settings().Overlays().Names()), map[string]int{"good": 1}[name]; got != want {
			t.Errorf("%s: %d overlays in force, want %d", name, got, want)
		}
	}
}

func TestRoutes(t *testing.T) {
	own := newCredentials(dnsName, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	secret := issued(t, 1)
	own.update(secret)
	url, client := server(t, own), caller(secret.Data[mesh.CertRoot], false)
	for path, want := range map[string]int{
		mesh.InjectPath: 405, mesh.InjectPath + "/cluster/c": 405, mesh.InjectPath + "ed": 404, "/": 404, "/metrics": 404,
	} {
		r, err := client.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body(t, r)
		if r.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, r.StatusCode, want)
		}
	}
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	var lines bytes.Buffer
	h := recovered(slog.New(slog.NewTextHandler(&lines, nil)))(admission.Handler(
		func(context.Context, *admission.Request) admission.Response { panic("at the disco") }, admission.Config{}))
	r := httptest.NewRequest(http.MethodPost, mesh.InjectPath, strings.NewReader(review))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 500 || strings.Contains(w.Body.String(), "disco") || !strings.Contains(lines.String(), "at the disco") {
		t.Errorf("%d %s\n%s", w.Code, w.Body, &lines)
	}
}
