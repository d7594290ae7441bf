package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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

func TestParseMetrics(t *testing.T) {
	for _, c := range []struct{ annotations, targets, want string }{
		{`{"scrape":"true","port":"8080","path":"/m"}`, "", ":8080/m"},
		{`{"scrape":"true"}`, "", ":80/metrics"},
		{`{"scrape":"true","path":"federate?match=a,b"}`, "", ":80/federate?match=a,b"},
		{`{"scrape":"false","port":"8080"}`, "", ""},
		{`{"port":"8080"}`, "", ""},
		{`{}`, "", ""},
		{`{"scrape":"true","port":"8080"}`, "9090:/m, 9091:x/y,9092,9090:/m", ":9090/m :9091/x/y :9092/metrics"},
		{"", "9090:/a:b", ":9090/a:b"},
	} {
		got, err := ParseMetrics(c.annotations, c.targets, mesh.AgentPort)
		if err != nil || !got.merged {
			t.Errorf("%s %s: %v, merged %v", c.annotations, c.targets, err, got.merged)
		}
		var urls []string
		for _, target := range got.targets {
			urls = append(urls, fmt.Sprintf(":%d%s", target.port, target.path.RequestURI()))
		}
		if diff := cmp.Diff(c.want, strings.Join(urls, " ")); diff != "" {
			t.Errorf("%s %s: %s", c.annotations, c.targets, diff)
		}
	}
	if none, err := ParseMetrics("", "", mesh.AgentPort); err != nil || none.merged {
		t.Errorf("no annotations: %v, %v", none, err)
	}
	for _, c := range []struct{ annotations, targets, want string }{
		{`[]`, "", "not a JSON object"},
		{`{"scrape":"true","port":8080}`, "", "not a JSON object of strings"},
		{`{"scrape":"true","port":"http"}`, "", `port "http"`},
		{`{"scrape":"true","port":"15020"}`, "", "the agent's own"},
		{`{"scrape":"true","port":"15090"}`, "", "Envoy's"},
		{"", "9090:/a,,", `""`},
		{"", "0:/a", `port "0"`},
		{"", "65536:/a", `port "65536"`},
		{"", "15020:/stats/prometheus", "the agent's own"},
		{"", "9090:/a,15000:/stats", "Envoy's"},
	} {
		if got, err := ParseMetrics(c.annotations, c.targets, mesh.AgentPort); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, %v, want an error with %q", c.annotations, c.targets, got, err, c.want)
		}
	}
}

// FuzzMetrics holds the laws of what was accepted: every target is a URL of the
// pod's own, and none of the sidecar's ports.
func FuzzMetrics(f *testing.F) {
	f.Add(`{"scrape":"true","port":"8080","path":"/m?a=b"}`, "")
	f.Add(`{"scrape":"true","path":"//a@b:c/%zz"}`, "")
	f.Add("", "9090:/m,9091:x\x00/y,1:@evil/")
	f.Fuzz(func(t *testing.T, annotations, targets string) {
		m, err := ParseMetrics(annotations, targets, 15999)
		if err != nil {
			return
		}
		if annotations != "" && !json.Valid([]byte(annotations)) {
			t.Errorf("%q is not JSON", annotations)
		}
		s := newScraper(m, "127.0.0.1:15000", netip.MustParseAddr("fd00::7"), nil)
		for i, target := range s.targets[1:] {
			req, err := http.NewRequest("GET", target.url, http.NoBody)
			if err != nil {
				t.Errorf("%q: %v", target.url, err)
				continue
			}
			if want := fmt.Sprintf("[fd00::7]:%d", m.targets[i].port); req.URL.Host != want || req.URL.User != nil {
				t.Errorf("%q leads to %s", targets, req.URL)
			}
			if p := m.targets[i].port; p == 15999 || p == 15000 || p == 0 {
				t.Errorf("port %d", p)
			}
		}
		if err := strict(string(s.failures())); err != nil {
			t.Error(err)
		}
	})
}

// startMerged serves the agent's port of a pod with these applications, beside an
// Envoy that has one metric.
func startMerged(t *testing.T, apps ...http.HandlerFunc) *httptest.Server {
	t.Helper()
	envoy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.String() != mesh.MetricsPath {
			t.Errorf("Envoy is asked for %s", r.URL)
		}
		fmt.Fprint(w, "# TYPE envoy_a counter\nenvoy_a{} 1\n")
	}))
	t.Cleanup(envoy.Close)
	var targets []string
	for _, app := range apps {
		server := httptest.NewServer(app)
		t.Cleanup(server.Close)
		targets = append(targets, fmt.Sprintf("%d:/m", portOf(t, server.URL)))
	}
	m, err := ParseMetrics("{}", strings.Join(targets, ","), mesh.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	p := Proxy{Metrics: m, Address: netip.MustParseAddr("127.0.0.1"), Envoy: Envoy{admin: strings.TrimPrefix(envoy.URL, "http://")}, Log: discardLog()}
	agent := httptest.NewServer(p.testHandler(sources{ranges: single(netip.MustParseAddr("10.0.0.1"))}))
	t.Cleanup(agent.Close)
	return agent
}

// scrape returns what a Prometheus gets.
func scrape(t *testing.T, agent string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", agent+mesh.MetricsPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// expectMetrics compares an answer but for the agent's own lines, of which it
// returns the values in the order of the targets.
func expectMetrics(t *testing.T, text, want string) (failures string) {
	t.Helper()
	if err := strict(text); err != nil {
		t.Errorf("invalid: %v\n%s", err, text)
	}
	got, own, _ := strings.Cut(text, "# HELP "+scrapeFailures)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for line := range strings.Lines(own) {
		if _, value, ok := strings.Cut(line, "} "); ok {
			failures += value
		}
	}
	return strings.ReplaceAll(failures, "\n", " ")
}

func TestMergedMetrics(t *testing.T) {
	const envoy = "# TYPE envoy_a counter\nenvoy_a{} 1\n"
	var asked http.Header
	var path string
	agent := startMerged(t, func(w http.ResponseWriter, r *http.Request) {
		asked, path = r.Header, r.URL.String()
		fmt.Fprint(w, "# TYPE app_a gauge\napp_a 2\n")
	}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
		fmt.Fprint(w, "# TYPE app_b counter\napp_b_total 3 # {a=\"b\"} 1\n# TYPE app_a gauge\napp_a 4\n# TYPE garrison_agent_scrape_failures_total gauge\n# EOF\n")
	})
	resp, text := scrape(t, agent.URL, http.Header{
		"Accept":                              {"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily,application/openmetrics-text;q=0.5,*/*;q=0.1"},
		"Cookie":                              {"a=b"},
		"X-Prometheus-Scrape-Timeout-Seconds": {"60"},
	})
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("%s, %s", resp.Status, got)
	}
	if got := expectMetrics(t, text, envoy+"# TYPE app_a gauge\napp_a 2\n# TYPE app_b_total counter\napp_b_total 3\napp_a 4\n"); got != "0 0 0 " {
		t.Errorf("failures: %s", got)
	}
	share := asked.Get("X-Prometheus-Scrape-Timeout-Seconds")
	asked.Del("X-Prometheus-Scrape-Timeout-Seconds")
	want := http.Header{"Accept": {"text/plain;version=0.0.4,*/*;q=0.1"}, "Connection": {"close"}, "User-Agent": {"Go-http-client/1.1"}}
	if diff := cmp.Diff(want, asked); diff != "" || path != "/m" {
		t.Errorf("asked for %s: %s", path, diff)
	}
	if s, err := strconv.ParseFloat(share, 64); err != nil || s > 29.5 || s < 20 { // half of what Envoy leaves of 60 - 1 s
		t.Errorf("the application has %s s", share)
	}
	if got := call(t, "POST", agent.URL+mesh.MetricsPath, nil); got != 405 {
		t.Errorf("POST: %d", got)
	}
	if resp, _ := scrape(t, startProber(t, `{"tcpSocket":{"port":1}}`).URL, nil); resp.StatusCode != 404 {
		t.Errorf("not merged: %s", resp.Status)
	}
}

// An application that fails costs its own part of the answer, whatever the failure.
func TestMergedMetricsOfAFailingApplication(t *testing.T) {
	const envoy, last = "# TYPE envoy_a counter\nenvoy_a{} 1\n", "last 1\n"
	for name, c := range map[string]struct {
		app  http.HandlerFunc
		part string
	}{
		"500": {app: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); fmt.Fprint(w, "a 1\n") }},
		"a redirect elsewhere": {app: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2/", http.StatusFound)
		}},
		"HTML": {app: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>\n") }},
		"protobuf": {app: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.google.protobuf; encoding=delimited")
			fmt.Fprint(w, "a 1\n")
		}},
		"half an answer": {part: "a 1\n", app: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "a 1\nb 2")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			agent := startMerged(t, c.app, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, last) })
			for n := range 2 {
				_, text := scrape(t, agent.URL, patient())
				if got, want := expectMetrics(t, text, envoy+c.part+last), fmt.Sprintf("0 %d 0 ", n+1); got != want {
					t.Errorf("failures %s, want %s", got, want)
				}
			}
		})
	}
}

// patient is a scraper that waits for as long as any may.
func patient() http.Header { return http.Header{"X-Prometheus-Scrape-Timeout-Seconds": {"60"}} }

// A neighbour that asks without end is refused; another caller is not.
func TestScrapesAreBounded(t *testing.T) {
	s := newScraper(Metrics{}, "", netip.Addr{}, nil)
	one := netip.MustParseAddr("10.0.0.1")
	for range maxScrapesOfOne {
		if !s.enter(one) {
			t.Fatal("refused")
		}
	}
	if s.enter(one) {
		t.Error("one caller, one scrape too many")
	}
	others := 0
	for i := range 100 {
		if s.enter(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})) {
			others++
		}
	}
	if others != maxScrapes-maxScrapesOfOne {
		t.Errorf("%d others", others)
	}
	s.leave(one)
	if !s.enter(one) {
		t.Error("refused though one ended")
	}

	var under atomic.Int32
	entered, leave := make(chan bool, 10), make(chan bool)
	agent := startMerged(t, func(http.ResponseWriter, *http.Request) {
		under.Add(1)
		entered <- true
		<-leave
	})
	var all sync.WaitGroup
	for range maxScrapesOfOne {
		all.Go(func() {
			if resp, _ := scrape(t, agent.URL, patient()); resp.StatusCode != 200 {
				t.Error(resp.Status)
			}
		})
	}
	for range maxScrapesOfOne {
		<-entered
	}
	if resp, _ := scrape(t, agent.URL, nil); resp.StatusCode != 429 {
		t.Errorf("one too many: %s", resp.Status)
	}
	close(leave)
	all.Wait()
}

func TestScrapeBudget(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 9 * time.Second, "10": 9 * time.Second, "2.5": 2 * time.Second, "0.5": 400 * time.Millisecond, "1e9": 59 * time.Second,
		"0": 9 * time.Second, "-1": 9 * time.Second, "NaN": 9 * time.Second, "soon": 9 * time.Second, "+Inf": 59 * time.Second,
	} {
		if got := scrapeBudget(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// The real Envoy's own metrics are such that the strictest parser takes them beside
// those of an application.
func TestMergedMetricsOfARealEnvoy(t *testing.T) {
	binary := envoyBinary(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "envoy.json")
	listen := meshtest.Address(t)
	host, port, _ := net.SplitHostPort(listen)
	text := fmt.Sprintf(`{"admin":{"address":{"socket_address":{"address":%q,"port_value":%s}}},
		"static_resources":{"clusters":[{"name":"a","type":"STATIC","connect_timeout":"1s"}]}}`, host, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "--config-path", config, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	envoy := Envoy{admin: listen}
	eventually(t, "Envoy", func() bool { return envoy.live(t.Context()) })

	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "app_a 1\n") }))
	defer app.Close()
	m, err := ParseMetrics("", fmt.Sprintf("%d:/", portOf(t, app.URL)), mesh.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	p := Proxy{Metrics: m, Address: netip.MustParseAddr("127.0.0.1"), Envoy: envoy, Log: discardLog()}
	agent := httptest.NewServer(p.testHandler(everybody))
	defer agent.Close()
	header := patient()
	header.Set("Accept", "application/vnd.google.protobuf")
	_, got := scrape(t, agent.URL, header)
	if err := strict(got); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"\nenvoy_server_live{} 1\n", "\napp_a 1\n", scrapeFailures + `{target="envoy"} 0`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %d bytes", want, len(got))
		}
	}
}
