package agent

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestReadiness(t *testing.T) {
	var live atomic.Bool
	certs := newRenewer(nil, nil, discardLog())
	h := &health{certificate: certs.valid, live: func(context.Context) bool { return live.Load() }}
	server := httptest.NewServer(Proxy{}.handler(h, &prober{}, everybody))
	defer server.Close()
	expect := func(when string, want int) {
		t.Helper()
		resp, err := http.Get(server.URL + mesh.ReadyPath)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != http.StatusText(want)+"\n" || resp.StatusCode != want {
			t.Errorf("%s: %d %q %v, want %d", when, resp.StatusCode, body, err, want)
		}
	}
	ca, id := newTestCA(t), testID(t, "sleep")
	expect("nothing there", 503)
	live.Store(true)
	expect("no certificate", 503)
	certs.held.Store(ca.certificate(id, time.Hour))
	expect("all there", 200)
	live.Store(false)
	expect("no Envoy", 503)
	live.Store(true)
	certs.held.Store(&Certificate{leaf: ca.leaf(id, &newKey(t).PublicKey, -time.Second)})
	expect("certificate expired", 503)
	certs.held.Store(ca.certificate(id, time.Hour))
	expect("all there again", 200)
	h.stop()
	expect("stopping", 503)
}

func TestProxyEndsWhileItWaitsForItsFirstCertificate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	dir := t.TempDir()
	go func() {
		done <- Proxy{
			ID: testID(t, "sleep"), Listen: "127.0.0.1:0", CertDir: dir, ConfigDir: dir, Log: discardLog(),
			Citadel: Citadel{Addr: "127.0.0.1:1", RootFile: "none"},
		}.Run(ctx)
	}()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("still waiting")
	}
}

func TestProxyEndsWhenItsPortIsTaken(t *testing.T) {
	other := httptest.NewServer(nil)
	defer other.Close()
	dir := t.TempDir()
	err := Proxy{
		ID: testID(t, "sleep"), Listen: other.Listener.Addr().String(), CertDir: dir, ConfigDir: dir, Log: discardLog(),
		Citadel: Citadel{Addr: "127.0.0.1:1", RootFile: "none"},
	}.Run(t.Context())
	if err == nil {
		t.Error("no error")
	}
}

// Whatever the agent's port is, Envoy's readiness listener asks there.
func TestBootstrapLeadsToTheAgentsPort(t *testing.T) {
	for port, want := range map[uint16]string{0: "15020", 15999: "15999"} {
		text, err := bootstrap(Proxy{ID: testID(t, "sleep"), Pod: "pod", Address: netip.MustParseAddr("10.0.0.1"), Port: port}, false)
		if err != nil {
			t.Fatal(err)
		}
		_, agent, _ := strings.Cut(string(text), `"cluster_name": "agent"`)
		if found := regexp.MustCompile(`"port_value": (\d+)`).FindStringSubmatch(agent); found == nil || found[1] != want {
			t.Errorf("port %d: the agent is at %v", port, found)
		}
	}
}

func TestCheckStatusPort(t *testing.T) {
	for _, port := range []uint16{15000, 15001, 15006, 15021, 15090} {
		if err := CheckStatusPort(port); err == nil {
			t.Errorf("%d: accepted", port)
		}
	}
	for _, port := range []uint16{15020, 80, 15999} {
		if err := CheckStatusPort(port); err != nil {
			t.Error(err)
		}
	}
}
