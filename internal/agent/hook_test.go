package agent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
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
	nobody := httptest.NewServer(nil)
	nobody.Close()
	closed := portOf(t, nobody.URL)
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
