package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// newProbed returns an application with a port for each kind of probe, which says in
// its log who asked it what: 8080 in plain text, 8443 by HTTPS, 8444 by HTTPS without
// HTTP/2, 9090 by gRPC. Every HTTP path is healthy. To gRPC it is as a whole, its service
// "broken" is not.
func newProbed(log *slog.Logger) ([]port, error) {
	certificate, err := selfSigned(time.Now())
	if err != nil {
		return nil, err
	}
	status := health.NewServer()
	status.SetServingStatus("broken", healthpb.HealthCheckResponse_NOT_SERVING)
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, status)

	var only1, plain2 http.Protocols
	only1.SetHTTP1(true)
	plain2.SetUnencryptedHTTP2(true)
	web := told(log, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") }))
	return []port{
		{addr: ":8080", handler: web},
		{addr: ":8443", handler: web, certificate: certificate},
		{addr: ":8444", handler: web, certificate: certificate, protocols: &only1},
		{addr: ":9090", handler: told(log, server), protocols: &plain2},
	}, nil
}

// told logs who asks what.
func told(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.InfoContext(r.Context(), "asked", "path", r.URL.Path, "protocol", r.Proto, "tls", r.TLS != nil, "agent", r.UserAgent(), "probe", r.Header.Get("X-Probe"))
		next.ServeHTTP(w, r)
	})
}

// selfSigned returns a certificate that nobody has reason to trust.
func selfSigned(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"probed"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
