package serve

import (
	"cmp"
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
	"math/big"
	"net"
	"os"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// enough is far more than anything here takes.
const enough = time.Minute

// house is a gRPC server behind a door, on loopback. The door has all the time in the world
// unless a test says otherwise.
type house struct {
	addr    string
	roots   *x509.CertPool
	metrics *prometheus.Registry
}

func newHouse(t *testing.T, o DoorOptions) house {
	t.Helper()
	h := house{metrics: prometheus.NewRegistry(), roots: x509.NewCertPool()}
	o.Metrics = h.metrics
	o.HandshakeTime = cmp.Or(o.HandshakeTime, 10*enough)
	o.CallTime = cmp.Or(o.CallTime, 10*enough)
	door := NewDoor(o)
	chain, key := selfSigned(t)
	h.roots.AppendCertsFromPEM(chain)
	cert := new(Certificate)
	if err := cert.Set(chain, key, time.Now()); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(door.Options(credentials.NewTLS(cert.TLS("h2")))...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener{l, door}) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		h.expect(t, map[string]float64{"grpc_door_connections": 0, "grpc_door_handshakes": 0, "grpc_door_calls": 0})
	})
	return h
}

func selfSigned(t *testing.T) (chain, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"house"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// knock opens a connection from an address and says nothing.
func (h house) knock(t *testing.T, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// expectShut waits until the server closes a connection.
func expectShut(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(enough)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

// expectRefused opens a connection that the server closes.
func (h house) expectRefused(t *testing.T) {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", h.addr)
	if err != nil {
		return // it was reset before it was seen to be open
	}
	defer c.Close()
	expectShut(t, c)
}

// dial returns a client that connects from an address.
func (h house) dial(t *testing.T, from string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+h.addr,
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", addr)
		}),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{ServerName: "house", RootCAs: h.roots})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func call(t *testing.T, conn *grpc.ClientConn) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
	return status.Code(err)
}

// expect waits until metrics have values.
func (h house) expect(t *testing.T, want map[string]float64) {
	t.Helper()
	for end := time.Now().Add(enough); ; {
		families, err := h.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				if len(m.Label) > 0 {
					name += " " + m.Label[0].GetValue()
				}
				if _, ok := want[name]; ok {
					got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		diff := gocmp.Diff(want, got)
		if diff == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("metrics (-want +got):\n%s", diff)
		}
	}
}

// Connections that say nothing use up what their own source may have, and nobody
// else's; when they are gone, their source may come in again.
func TestDoorHalfOpen(t *testing.T) {
	h := newHouse(t, DoorOptions{SourceHandshakes: 3})
	var silent []net.Conn
	for range 3 {
		silent = append(silent, h.knock(t, "127.0.0.1"))
	}
	h.expect(t, map[string]float64{"grpc_door_handshakes": 3, "grpc_door_connections": 3})
	for range 5 {
		h.expectRefused(t)
	}
	if code := call(t, h.dial(t, "127.0.0.2")); code != codes.OK {
		t.Errorf("another source: %v", code)
	}
	h.expect(t, map[string]float64{
		"grpc_door_handshakes": 3, "grpc_door_connections": 4, "grpc_door_refused_total source-handshakes": 5,
		"grpc_door_handshake_failures_total": 0,
	})
	for _, c := range silent {
		c.Close()
	}
	h.expect(t, map[string]float64{"grpc_door_handshakes": 0, "grpc_door_connections": 1, "grpc_door_handshake_failures_total": 3})
	if code := call(t, h.dial(t, "127.0.0.1")); code != codes.OK {
		t.Errorf("the same source afterwards: %v", code)
	}
}

// A handshake that does not get on is cut, whether nothing comes or a byte at a time.
func TestDoorCutsSlowHandshakes(t *testing.T) {
	h := newHouse(t, DoorOptions{HandshakeTime: 200 * time.Millisecond})
	silent, slow := h.knock(t, "127.0.0.1"), h.knock(t, "127.0.0.1")
	drip := time.NewTicker(20 * time.Millisecond)
	defer drip.Stop()
	hello := []byte{22, 3, 1, 2, 0} // a ClientHello of 512 bytes begins
	for end := time.Now().Add(enough); ; <-drip.C {
		if _, err := slow.Write(hello[:1]); err != nil {
			break
		}
		if hello = hello[1:]; len(hello) == 0 {
			hello = []byte{1}
		}
		if time.Now().After(end) {
			t.Fatal("a byte at a time holds a handshake open")
		}
	}
	expectShut(t, silent)
	h.expect(t, map[string]float64{"grpc_door_handshakes": 0, "grpc_door_connections": 0, "grpc_door_handshake_failures_total": 2})
}

// A source may not open connections in a loop.
func TestDoorLimitsConnectionsOfASource(t *testing.T) {
	h := newHouse(t, DoorOptions{SourceBurst: 4, SourceRate: 1e-9})
	for range 4 {
		h.knock(t, "127.0.0.1")
	}
	h.expect(t, map[string]float64{"grpc_door_connections": 4})
	h.expectRefused(t)
	h.expect(t, map[string]float64{"grpc_door_connections": 4, "grpc_door_refused_total source-rate": 1})
}

// What is too much of all sources together waits until others have gone.
func TestDoorLetsTheRestWait(t *testing.T) {
	for name, o := range map[string]DoorOptions{"handshakes": {Handshakes: 4}, "connections": {Connections: 4}} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, o)
			var in []net.Conn
			for n := range 4 {
				in = append(in, h.knock(t, fmt.Sprintf("127.0.0.%d", n+1)))
			}
			h.expect(t, map[string]float64{"grpc_door_connections": 4, "grpc_door_waits_total": 1})
			done := make(chan codes.Code, 1)
			conn := h.dial(t, "127.0.0.9")
			go func() { done <- call(t, conn) }()
			h.knock(t, "127.0.0.5")
			h.expect(t, map[string]float64{"grpc_door_connections": 4})
			select {
			case code := <-done:
				t.Fatalf("%v, before anybody had gone", code)
			default:
			}
			for _, c := range in {
				c.Close()
			}
			if code := <-done; code != codes.OK {
				t.Errorf("afterwards: %v", code)
			}
		})
	}
}

// Sources that keep all the handshakes open that they can get leave room for others, who
// need not wait until those are cut.
func TestDoorGreedySourcesLeaveRoom(t *testing.T) {
	const room, sources = 32, 8
	h := newHouse(t, DoorOptions{Handshakes: room, SourceHandshakes: room / sources})
	for n := range room {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(10+n%sources))}}
		if c, err := d.DialContext(t.Context(), "tcp", h.addr); err == nil { // else it was reset before it was seen to be open
			t.Cleanup(func() { c.Close() })
		}
	}
	for n := range 4 {
		if code := call(t, h.dial(t, fmt.Sprintf("127.0.0.%d", n+1))); code != codes.OK {
			t.Errorf("a source that holds nothing: %v", code)
		}
	}
	h.expect(t, map[string]float64{"grpc_door_handshakes": room / 2, "grpc_door_waits_total": 0, "grpc_door_refused_total source-handshakes": room / 2})
}

// One source may not have all the connections, though each of them got to TLS.
func TestDoorLimitsOpenConnectionsOfASource(t *testing.T) {
	const room, most = 12, 6
	h := newHouse(t, DoorOptions{Connections: room, SourceConnections: most})
	open := 0
	for range room {
		c, err := tls.Dial("tcp", h.addr, &tls.Config{ServerName: "house", RootCAs: h.roots, NextProtos: []string{"h2"}})
		if err != nil {
			continue
		}
		defer c.Close()
		open++
	}
	if want := 4; open != want { // of the 12: a fifth has half of the 8 that are left
		t.Errorf("%d connections, want %d", open, want)
	}
	h.expect(t, map[string]float64{"grpc_door_connections": 4, "grpc_door_refused_total source-connections": room - 4, "grpc_door_waits_total": 0})
	if code := call(t, h.dial(t, "127.0.0.2")); code != codes.OK {
		t.Errorf("another source: %v", code)
	}
}

// A server that is full can be stopped.
func TestDoorClosesWhenFull(t *testing.T) {
	h := newHouse(t, DoorOptions{Connections: 1})
	h.knock(t, "127.0.0.1")
	h.expect(t, map[string]float64{"grpc_door_waits_total": 1})
}

// silence begins a call and never sends the request.
func silence(t *testing.T, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, grpc_health_v1.Health_Check_FullMethodName, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A call that was announced and does not come ends, and the connection lives on.
func TestDoorCutsSlowCalls(t *testing.T) {
	h := newHouse(t, DoorOptions{CallTime: 200 * time.Millisecond})
	conn := h.dial(t, "127.0.0.1")
	for range 3 {
		var out grpc_health_v1.HealthCheckResponse
		if err := silence(t, conn).RecvMsg(&out); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a call without a request: %v", err)
		}
	}
	h.expect(t, map[string]float64{"grpc_door_calls": 0, "grpc_door_connections": 1})
	// A machine that is busy may not get through one in its time, either.
	code := call(t, conn)
	for end := time.Now().Add(enough); code == codes.DeadlineExceeded && time.Now().Before(end); {
		code = call(t, conn)
	}
	if code != codes.OK {
		t.Errorf("the next call: %v", code)
	}
	h.expect(t, map[string]float64{"grpc_door_connections": 1})
}

// Calls in excess end with a code that agents send again, however long the others take.
func TestDoorLimitsCalls(t *testing.T) {
	h := newHouse(t, DoorOptions{Calls: 2})
	conn := h.dial(t, "127.0.0.1")
	for range 2 {
		silence(t, conn)
	}
	h.expect(t, map[string]float64{"grpc_door_calls": 2})
	var out grpc_health_v1.HealthCheckResponse
	if err := silence(t, conn).RecvMsg(&out); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one call too many: %v", err)
	}
	h.expect(t, map[string]float64{"grpc_door_calls": 2, "grpc_door_refused_total calls": 1})
}
