package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

const (
	prestopz   = "/app-lifecycle/web/prestopz"
	poststartz = "/app-lifecycle/web/poststartz"
)

// The kubelet takes any answer to a hook for success, so the agent gives one only
// where the application did.
func TestHooks(t *testing.T) {
	var seen *http.Request
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		if r.URL.Path == "/bad" {
			w.WriteHeader(502) // the application's own
		}
	}))
	defer app.Close()
	port := portOf(t, app.URL)
	closed := portOf(t, "http://"+meshtest.Address(t))
	for entry, want := range map[string]int{
		fmt.Sprintf(`{"httpGet":{"path":"/bye","port":%d}}`, port):                  200,
		fmt.Sprintf(`{"httpGet":{"path":"/bad","port":%d}}`, port):                  502,
		fmt.Sprintf(`{"httpGet":{"path":"/bye","port":%d,"scheme":"HTTPS"}}`, port): 200, // as the kubelet falls back
		fmt.Sprintf(`{"tcpSocket":{"port":%d}}`, port):                              200,
		fmt.Sprintf(`{"httpGet":{"port":%d}}`, closed):                              0,
		fmt.Sprintf(`{"tcpSocket":{"port":%d}}`, closed):                            0,
		fmt.Sprintf(`{"httpGet":{"port":%d}}`, rawServer(t, "220 hi\r\n", false)):   0,
	} {
		agent := startAgent(t, "127.0.0.1", fmt.Sprintf(`{%q:%s,%q:%[2]s}`, prestopz, entry, poststartz))
		for _, path := range []string{prestopz, poststartz} {
			if want > 0 {
				if got := call(t, "GET", agent.URL+path, http.Header{"User-Agent": {"kube-lifecycle/1.36"}}); got != want {
					t.Errorf("%s: %d, want %d", entry, got, want)
				}
				continue
			}
			resp, err := http.Get(agent.URL + path)
			if err == nil {
				resp.Body.Close()
			}
			if !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v, want no answer", entry, err)
			}
		}
	}
	agent := startAgent(t, "127.0.0.1", fmt.Sprintf(`{%q:{"httpGet":{"path":"bye","port":%d}}}`, prestopz, port))
	call(t, "GET", agent.URL+prestopz, http.Header{"User-Agent": {"kube-lifecycle/1.36"}})
	if seen.URL.Path != "/bye" || seen.UserAgent() != "kube-lifecycle/1.36" {
		t.Errorf("asked for %s by %s", seen.URL.Path, seen.UserAgent())
	}
	if got := call(t, "POST", agent.URL+prestopz, nil); got != 405 {
		t.Errorf("POST: %d", got)
	}
}

// A sidecar that is told to stop stays for the hooks under way.
func TestHookIsUnderWayWhileTheApplicationIs(t *testing.T) {
	entered, leave := make(chan bool, 1), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- true
		<-leave
	}))
	defer app.Close()
	table, err := ParseProbers(fmt.Sprintf(`{%q:{"httpGet":{"port":%d}}}`, prestopz, portOf(t, app.URL)), mesh.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	if !table.stops() || (Probers{}).stops() {
		t.Error("stops")
	}
	p := &prober{table: table, address: netip.MustParseAddr("127.0.0.1")}
	agent := httptest.NewServer(p)
	defer agent.Close()
	var asked sync.WaitGroup
	asked.Go(func() {
		if got := call(t, "GET", agent.URL+prestopz, nil); got != 200 {
			t.Errorf("%d", got)
		}
	})
	<-entered
	if p.hooks.TryLock() {
		p.hooks.Unlock()
		t.Error("not under way")
	}
	close(leave)
	asked.Wait()
	p.settle()
}

// The kubelet sets out to call a preStop hook when it tells a plain sidecar to stop:
// the agent is still there for a hook that comes a little later, and stays until it
// is over.
func TestProxyStaysForHooks(t *testing.T) {
	t.Run("under way", func(t *testing.T) { expectStay(t, false) })
	t.Run("late", func(t *testing.T) {
		for range 20 {
			if expectStay(t, true) {
				return
			}
		}
		t.Error("no hook came within the second for which the agent stays")
	})
}

// expectStay reports whether the hook came while the agent was bound to be there: one that
// is late has a second, which a busy machine may need for itself.
func expectStay(t *testing.T, late bool) (came bool) {
	t.Helper()
	entered, leave := make(chan bool, 1), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- true
		<-leave
	}))
	defer app.Close()
	release := sync.OnceFunc(func() { close(leave) })
	defer release()
	table, err := ParseProbers(fmt.Sprintf(`{%q:{"httpGet":{"port":%d}}}`, prestopz, portOf(t, app.URL)), mesh.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	dir, listen := t.TempDir(), meshtest.Address(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- Proxy{
			ID: testID(t, "sleep"), Probers: table, Address: netip.MustParseAddr("127.0.0.1"), Listen: listen, CertDir: dir, ConfigDir: dir,
			Citadel: Citadel{Addr: "127.0.0.1:1", RootFile: "none"}, Log: discardLog(),
		}.Run(ctx)
	}()
	eventually(t, "the agent's port", func() bool {
		conn, err := net.Dial("tcp", listen)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	stopped := time.Now()
	if late {
		stop()
	}
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + listen + prestopz)
		if err != nil {
			answered <- err.Error()
			return
		}
		resp.Body.Close()
		answered <- resp.Status
	}()
	select {
	case <-entered:
	case got := <-answered:
		if took := time.Since(stopped); late && took >= time.Second {
			t.Logf("not asked within %v: %s", took, got)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			return false
		}
		t.Fatal("the application was not asked: ", got)
	}
	if !late {
		stop()
		<-time.After(1500 * time.Millisecond) // longer than it stays for those to come
		if got := call(t, "GET", "http://"+listen+"/other", nil); got != 404 {
			t.Errorf("while a hook is under way: %d", got)
		}
	}
	release()
	if got := <-answered; got != "200 OK" {
		t.Error(got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return true
}
