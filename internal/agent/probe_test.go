package agent

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

const livez = "/app-health/web/livez"

var everybody = sources{open: "a test"}

// startProber serves a table with one probe of path livez, to everybody.
func startProber(t *testing.T, entry string) *httptest.Server {
	t.Helper()
	return startAgent(t, "127.0.0.1", `{"`+livez+`":`+entry+`}`)
}

// startAgent serves the agent's port of a pod with that address. Probes that say nothing of
// their time have more than the second that is theirs: a busy machine may need it for itself.
func startAgent(t *testing.T, pod, table string) *httptest.Server {
	t.Helper()
	probers, err := ParseProbers(table, mesh.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	for path, p := range probers.probes {
		if p.timeout == time.Second {
			p.timeout = enough
			probers.probes[path] = p
		}
	}
	server := httptest.NewServer(Proxy{Probers: probers, Address: netip.MustParseAddr(pod)}.testHandler(everybody))
	t.Cleanup(server.Close)
	return server
}

func (p Proxy) testHandler(from sources) http.Handler {
	return p.handler(&health{}, &prober{table: p.Probers, address: p.Address}, from)
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// call returns the status of a request and fails where it says more than that.
func call(t *testing.T, method, address string, header http.Header) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	resp, err := http.DefaultTransport.RoundTrip(req) // follows nothing
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Header.Del("Date")
	resp.Header.Del("Content-Length")
	if len(body) > 0 || len(resp.Header) > 0 {
		t.Errorf("%s %s: more than a status: %q %v", method, address, body, resp.Header)
	}
	return resp.StatusCode
}

func TestProbeHTTPStatus(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Secret", "1")
		w.Header().Set("Set-Cookie", "session=1")
		code, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(code)
		if code != 204 && code != 304 {
			fmt.Fprint(w, "the application's own words")
		}
	}))
	defer app.Close()
	port := portOf(t, app.URL)
	for code := 200; code <= 1000; code++ {
		want := code
		switch {
		case http.StatusText(code) == "" && code%100 != 99 && code != 600:
			continue // every code that has a name, and the borders
		case code >= 600:
			want = 502
		case code >= 300 && code < 400:
			want = 200
		}
		agent := startProber(t, fmt.Sprintf(`{"httpGet":{"path":"/%d","port":%d}}`, code, port))
		if got := call(t, "GET", agent.URL+livez, nil); got != want {
			t.Errorf("application says %d: %d, want %d", code, got, want)
		}
	}
}

func TestProbeOnlyKnownPathsByGet(t *testing.T) {
	var asked atomic.Int32
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer app.Close()
	agent := startProber(t, fmt.Sprintf(`{"httpGet":{"port":%d}}`, portOf(t, app.URL)))
	for _, path := range []string{
		"/", "/app-health/", "/app-health/web/readyz", "/app-health/other/livez", livez + "/", "//app-health/web/livez",
		"/app-health/web/../web/livez", "/metrics", "/quitquitquit", "/debug/pprof/", "/healthz",
	} {
		if got := call(t, "GET", agent.URL+path, nil); got != 404 {
			t.Errorf("%s: %d", path, got)
		}
	}
	for _, method := range []string{"POST", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		if got := call(t, method, agent.URL+livez, nil); got != 405 {
			t.Errorf("%s: %d", method, got)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("application asked %d times", n)
	}
	if got := call(t, "GET", agent.URL+livez+"?x=http://elsewhere", nil); got != 200 || asked.Load() != 1 {
		t.Errorf("known path: %d, asked %d times", got, asked.Load())
	}
}

func TestProbeSendsOnlyItsOwnHeaders(t *testing.T) {
	var seen *http.Request
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r }))
	defer app.Close()
	port := portOf(t, app.URL)
	stranger := http.Header{
		"Cookie": {"session=1"}, "Authorization": {"Bearer x"}, "X-Forwarded-For": {"1.2.3.4"}, "X-A": {"stranger"},
		"Accept": {"text/evil"}, "User-Agent": {"curl/8"}, "Host": {"elsewhere"}, "Range": {"bytes=0-1"},
	}
	agent := startProber(t, fmt.Sprintf(`{"httpGet":{"path":"/p?q=1","port":%d,"httpHeaders":[
		{"name":"X-A","value":"probe"},{"name":"Host","value":"web.example"},{"name":"x-a","value":"twice"}]}}`, port))
	call(t, "GET", agent.URL+livez+"?q=stranger", stranger)
	want := http.Header{"X-A": {"probe", "twice"}, "Accept": {"*/*"}, "User-Agent": {"kube-probe/"}, "Connection": {"close"}}
	if diff := cmp.Diff(want, seen.Header); diff != "" {
		t.Error("headers: ", diff)
	}
	if seen.Host != "web.example" || seen.URL.String() != "/p?q=1" || seen.Method != "GET" {
		t.Errorf("asked %s %s of %s", seen.Method, seen.URL, seen.Host)
	}

	for host, path := range map[string]string{"web.example:81": "sub/dir", "[fd00::1]:80": "/a%2Fb"} {
		agent = startProber(t, fmt.Sprintf(`{"httpGet":{"path":%q,"port":%d,"httpHeaders":[{"name":"host","value":%q}]}}`, path, port, host))
		call(t, "GET", agent.URL+livez, nil)
		if want := "/" + strings.TrimPrefix(path, "/"); seen.Host != host || seen.RequestURI != want {
			t.Errorf("asked %s of %s, want %s of %s", seen.RequestURI, seen.Host, want, host)
		}
	}

	agent = startProber(t, fmt.Sprintf(`{"httpGet":{"port":%d}}`, port))
	for _, kubelet := range []string{"kube-probe/1.36", "kube-probe/1.36+"} {
		call(t, "GET", agent.URL+livez, http.Header{"User-Agent": {kubelet}})
		if got := seen.Header.Get("User-Agent"); got != kubelet {
			t.Errorf("%s is introduced as %q", kubelet, got)
		}
	}
	if want := net.JoinHostPort("127.0.0.1", strconv.Itoa(port)); seen.Host != want {
		t.Errorf("host %q, want %q as the kubelet would say", seen.Host, want)
	}
}

// rawServer answers each connection with text and closes it, or keeps it open.
func rawServer(t *testing.T, text string, hold bool) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	ended := make(chan bool)
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return // a TCP probe
				}
				io.WriteString(conn, text)
				if hold {
					<-ended
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); close(ended); open.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestProbeOfABrokenApplication(t *testing.T) {
	closed := portOf(t, "http://"+meshtest.Address(t))
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	cases := map[string]struct {
		entry string
		want  int
	}{
		"HTTP, nobody listens": {fmt.Sprintf(`{"httpGet":{"port":%d}}`, closed), 502},
		"TCP, nobody listens":  {fmt.Sprintf(`{"tcpSocket":{"port":%d}}`, closed), 502},
		"TCP, open":            {fmt.Sprintf(`{"tcpSocket":{"port":%d}}`, rawServer(t, "", true)), 200},
		"silence":              {fmt.Sprintf(`{"httpGet":{"port":%d},"timeoutSeconds":2}`, rawServer(t, "", true)), 504},
		"half a body":          {fmt.Sprintf(`{"httpGet":{"port":%d}}`, rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", false)), 502},
		"a body that stalls":   {fmt.Sprintf(`{"httpGet":{"port":%d},"timeoutSeconds":2}`, rawServer(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", true)), 504},
		"a body without end":   {fmt.Sprintf(`{"httpGet":{"port":%d}}`, portOf(t, endless.URL)), 200},
		"not HTTP":             {fmt.Sprintf(`{"httpGet":{"port":%d}}`, rawServer(t, "220 mail ready\r\n", false)), 502},
		"another protocol":     {fmt.Sprintf(`{"httpGet":{"port":%d}}`, rawServer(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false)), 502},
		"status 000":           {fmt.Sprintf(`{"httpGet":{"port":%d}}`, rawServer(t, "HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", false)), 502},
		"header without end":   {fmt.Sprintf(`{"httpGet":{"port":%d}}`, rawServer(t, "HTTP/1.1 200 OK\r\nA: "+strings.Repeat("a", 1<<20), false)), 502},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := call(t, "GET", startProber(t, c.entry).URL+livez, nil); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}

func TestProbeKeepsToItsTimeout(t *testing.T) {
	silent := rawServer(t, "", true)
	agent := startProber(t, fmt.Sprintf(`{"httpGet":{"port":%d},"timeoutSeconds":2}`, silent))
	start := time.Now()
	if got := call(t, "GET", agent.URL+livez, nil); got != 504 {
		t.Errorf("%d", got)
	}
	// Were it much longer, the answer would come too late to be written.
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("answered after %v, want 2 s", took)
	}
}

// However many neighbours ask, the application is asked once at a time.
func TestProbeIsSharedByItsCallers(t *testing.T) {
	const callers = 50
	entered, leave := make(chan bool, callers), make(chan bool)
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- true
		<-leave
	}))
	defer app.Close()
	table, err := ParseProbers(fmt.Sprintf(`{%q:{"httpGet":{"port":%d},"timeoutSeconds":300}}`, livez, portOf(t, app.URL)), mesh.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	proxy := Proxy{Probers: table, Address: netip.MustParseAddr("127.0.0.1")}
	handler := proxy.testHandler(everybody)
	arrived := make(chan bool, callers)
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		handler.ServeHTTP(w, r)
	}))
	defer agent.Close()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if got := call(t, "GET", agent.URL+livez, nil); got != 200 {
				t.Errorf("%d", got)
			}
		})
	}
	for range callers {
		<-arrived
	}
	<-entered
	select {
	case <-entered:
		t.Error("a second request to the application beside the first")
	case <-time.After(200 * time.Millisecond):
	}
	close(leave)
	all.Wait()
}
