package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// TestAbuse has what the server as a whole must bear, by the numbers of the list of
// abuse cases.
func TestAbuse(t *testing.T) {
	for name, abuse := range map[string]func(*testing.T){
		"13_huge_headers_and_messages": abuseHuge,
		"19_storm_of_agents":           abuseStorm,
		"20_flood_of_handshakes":       abuseHandshakes,
	} {
		t.Run(name, abuse)
	}
	abuseSecrets(t)
}

// front is the whole gRPC server on loopback. A token is the UID of the pod that it
// proves.
type front struct {
	addr    string
	serving *serve.Certificate
	roots   *x509.CertPool
	metrics *prometheus.Registry
	gate    *ca.Gate
	asked   atomic.Int64 // about tokens
}

func newFront(t *testing.T, l limits) *front {
	t.Helper()
	l.door.HandshakeTime, l.door.CallTime = time.Hour, time.Hour // however long the test pauses
	authority, _ := newAuthority(t)
	own, err := authority.NewSecret(mesh.ServiceAccount{
		Namespace: mesh.SystemNamespace, Name: mesh.ServerAccount(mesh.CitadelService), UID: "1",
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	f := &front{addr: meshtest.Address(t), serving: new(serve.Certificate), roots: x509.NewCertPool(), metrics: prometheus.NewRegistry()}
	f.roots.AppendCertsFromPEM(authority.Bundle())
	setServing(f.serving, authority, slog.New(slog.DiscardHandler))(own)
	f.gate = l.newGate(f.metrics)
	service := ca.NewService(authority, func(_ context.Context, token string) (ca.Caller, error) {
		f.asked.Add(1)
		return ca.Caller{Account: mesh.ServiceAccount{Namespace: "default", Name: "sleep", UID: "u"}, PodName: "sleep", PodUID: token}, nil
	}, ca.ServiceOptions{Gate: f.gate})
	door := l.newDoor(f.metrics)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- serve.GRPC{Addr: f.addr, Server: newServer(door, f.serving, authority, service), Door: door, Linger: -1}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the server listens", func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.addr)
		if err == nil {
			err = c.Close()
		}
		return err
	})
	return f
}

// dial connects from an address of loopback.
func (f *front) dial(t *testing.T, from string) securityapi.IstioCertificateServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+f.addr,
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{ServerName: "istio-citadel.istio-system.svc", RootCAs: f.roots})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return securityapi.NewIstioCertificateServiceClient(conn)
}

func ask(t *testing.T, client securityapi.IstioCertificateServiceClient, token, csr string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	_, err := client.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csr}, grpc.WaitForReady(true))
	return err
}

func newCSR(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func abuseHuge(t *testing.T) {
	f := newFront(t, limits{})
	client := f.dial(t, "127.0.0.1")
	for name, c := range map[string]struct {
		token, csr int // bytes
		want       []codes.Code
	}{
		"token of 17 KiB": {17 << 10, 0, []codes.Code{codes.InvalidArgument}},
		"header of 1 MiB": {1 << 20, 0, []codes.Code{codes.Internal, codes.ResourceExhausted, codes.Unavailable}}, // by where it is cut
		"CSR of 17 KiB":   {1, 17 << 10, []codes.Code{codes.InvalidArgument}},
		"CSR of 4 MiB":    {1, 4 << 20, []codes.Code{codes.ResourceExhausted}},
		"CSR of 64 KiB":   {1, 64 << 10, []codes.Code{codes.ResourceExhausted}},
	} {
		err := ask(t, client, strings.Repeat("x", c.token), strings.Repeat("x", c.csr))
		ok := false
		for _, code := range c.want {
			ok = ok || status.Code(err) == code
		}
		if n := f.asked.Load(); !ok || n != 0 {
			t.Errorf("%s: %v, and %d tokens were looked at", name, err, n)
		}
	}
	if err := ask(t, client, "p1", newCSR(t)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Of many agents that ask at once all are served in the end; the others are told when
// to come again, and one that asks in a loop takes nobody's turn.
func abuseStorm(t *testing.T) {
	const agents, slots, waiting, burst = 300, 1, 10, 5
	f := newFront(t, limits{gate: ca.GateOptions{Slots: slots, Waiting: waiting, CallerBurst: burst, CallerRate: 1e-9}})
	csr := newCSR(t)
	greedy := f.dial(t, "127.0.0.2")
	for n := range 20 {
		err := ask(t, greedy, "greedy", csr)
		if n < burst && err != nil || n >= burst && !told(err) {
			t.Errorf("request %d of one pod: %v", n+1, err)
		}
	}
	client := f.dial(t, "127.0.0.1")
	// The first of them find the only slot taken until the room is full: a machine that
	// gets through each before it looks at the next would know no storm.
	leave, err := f.gate.Enter(t.Context(), testID(t), "first", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range agents {
		wg.Go(func() {
			err := ask(t, client, strconv.Itoa(n), csr)
			for ; told(err) && t.Context().Err() == nil; err = ask(t, client, strconv.Itoa(n), csr) {
				// A client that comes again too early is no worse than one more client.
			}
			if err != nil {
				t.Errorf("agent %d: %v", n, err)
			}
		})
	}
	eventually(t, "the room is full", func(context.Context) error {
		if sample(t, f.metrics, "citadel_csr_refused_total", "full") == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	leave()
	wg.Wait()
	if n := sample(t, f.metrics, "citadel_csr_refused_total", "caller"); n != 20-burst {
		t.Errorf("%v refused because of their own rate, want only the greedy pod's %d", n, 20-burst)
	}
}

func testID(t *testing.T) identity.ID {
	t.Helper()
	id, err := identity.New(identity.DefaultTrustDomain, "default", "sleep")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// told reports whether an error tells when to come again, with a code that agents
// send again.
func told(err error) bool {
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted {
		return false
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && info.RetryDelay.AsDuration() > 0 {
			return true
		}
	}
	return false
}

// sample returns the value of a metric, with a label's value where that is not "".
func sample(t *testing.T, g prometheus.Gatherer, name, label string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (label == "" || m.Label[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s of %q", name, label)
	return 0
}

// Connections that say nothing keep nobody else out, and no handshake makes a key:
// all are shown the certificate that there is.
func abuseHandshakes(t *testing.T) {
	const silent, bound = 100, 8
	f := newFront(t, limits{door: serve.DoorOptions{SourceHandshakes: bound}})
	var shut atomic.Int64
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for range silent {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.addr)
		if err != nil {
			shut.Add(1) // before it was seen to be open
			continue
		}
		wg.Go(func() { // until it is closed, by whomever
			_, _ = io.Copy(io.Discard, c)
			shut.Add(1)
		})
		t.Cleanup(func() { c.Close() })
	}
	eventually(t, "all silent connections but a few are closed", func(context.Context) error {
		under, refused := sample(t, f.metrics, "grpc_door_handshakes", ""), sample(t, f.metrics, "grpc_door_refused_total", "source-handshakes")
		if n := shut.Load(); n != silent-bound || under != bound || refused != silent-bound {
			return fmt.Errorf("%d of %d closed, %v refused, %v handshakes under way", n, silent, refused, under)
		}
		return nil
	})
	for range bound + 1 { // whose handshakes have ended
		if err := ask(t, f.dial(t, "127.0.0.2"), "p1", newCSR(t)); err != nil {
			t.Errorf("meanwhile: %v", err)
		}
		c, err := tls.DialWithDialer(&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)}}, "tcp", f.addr,
			&tls.Config{ServerName: "istio-citadel", RootCAs: f.roots, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		if !c.ConnectionState().PeerCertificates[0].Equal(f.serving.Leaf()) {
			t.Error("a certificate of its own for a handshake")
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		frame, err := http2.NewFramer(io.Discard, c).ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		settings, _ := frame.(*http2.SettingsFrame)
		if n, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || n > 100 {
			t.Errorf("a connection may have %d calls at a time, limited %t", n, ok)
		}
		c.Close()
	}
}
