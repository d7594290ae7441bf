package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// start serves a port of an application on loopback until the test ends.
func start(t *testing.T, p port) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		if conn, err := net.DialTimeout("tcp", p.addr, time.Minute); err == nil {
			_ = conn.Close()
			return p.addr
		}
	}
	t.Fatalf("%s does not listen", p.addr)
	return ""
}

func TestProbed(t *testing.T) {
	var log bytes.Buffer
	ports, err := newProbed(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // as a kubelet's probe
		ForceAttemptHTTP2: true,
	}}
	defer client.CloseIdleConnections()
	got := map[string]string{}
	for _, p := range ports[:3] {
		scheme := "http"
		if p.certificate != nil {
			scheme = "https"
		}
		resp, err := client.Get(scheme + "://" + start(t, p) + "/live")
		if err != nil {
			t.Fatalf("%s: %v", p.addr, err)
		}
		resp.Body.Close()
		got[p.addr] = fmt.Sprintf("%d %s", resp.StatusCode, resp.Proto)
	}
	want := map[string]string{":8080": "200 HTTP/1.1", ":8443": "200 HTTP/2.0", ":8444": "200 HTTP/1.1"}
	for addr := range want {
		if got[addr] != want[addr] {
			t.Errorf("%s answers %q, want %q", addr, got[addr], want[addr])
		}
	}

	conn, err := grpc.NewClient("passthrough:///"+start(t, ports[3]), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for service, want := range map[string]healthpb.HealthCheckResponse_ServingStatus{
		"":       healthpb.HealthCheckResponse_SERVING,
		"broken": healthpb.HealthCheckResponse_NOT_SERVING,
	} {
		answer, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || answer.Status != want {
			t.Errorf("service %q: %v, %v, want %v", service, answer, err, want)
		}
	}
	for _, asked := range []string{"path=/live protocol=HTTP/1.1 tls=false", "path=/live protocol=HTTP/2.0 tls=true", "path=/grpc.health.v1.Health/Check protocol=HTTP/2.0 tls=false"} {
		if !strings.Contains(log.String(), asked) {
			t.Errorf("the log lacks %q:\n%s", asked, &log)
		}
	}
}
