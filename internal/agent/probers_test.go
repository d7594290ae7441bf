package agent

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestParseProbers(t *testing.T) {
	got, err := ParseProbers(`{
		"/app-health/web/livez": {"httpGet": {"path": "/live?full=1", "port": 8080, "scheme": "HTTP"}},
		"/app-health/web/readyz": {"httpGet": {"path": "ready", "port": 8443, "scheme": "HTTPS", "httpHeaders": [
			{"name": "Host", "value": "web.example"}, {"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"},
			{"name": "Accept", "value": ""}, {"name": "User-Agent", "value": "\u0024me"}]}, "timeoutSeconds": 7},
		"/app-health/db-0/startupz": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 2},
		"/app-health/rpc/livez": {"grpc": {"port": 9000, "service": null}},
		"/app-health/rpc/readyz": {"grpc": {"port": 9000, "service": "shop.Cart"}, "timeoutSeconds": 3},
		"/app-lifecycle/web/prestopz": {"httpGet": {"path": "/bye", "port": 8080}},
		"/app-lifecycle/web/poststartz": {"tcpSocket": {"port": 15020}}}`, 15999)
	if err != nil {
		t.Fatal(err)
	}
	type flat struct {
		Port              uint16
		Timeout           time.Duration
		Scheme, URL, Host string
		Header            http.Header
		GRPC              string
		Hook              bool
	}
	show := map[string]flat{}
	for key, p := range got.probes {
		f := flat{Port: p.port, Timeout: p.timeout, Hook: p.hook}
		if p.http != nil {
			f.Scheme, f.URL, f.Host, f.Header = p.http.scheme, p.http.path.String(), p.http.host, p.http.header
		}
		if p.grpc != nil {
			f.GRPC = "service " + p.grpc.service
		}
		show[key] = f
	}
	want := map[string]flat{
		"/app-health/web/livez": {Port: 8080, Timeout: time.Second, Scheme: "http", URL: "/live?full=1", Header: http.Header{"Accept": {"*/*"}}},
		"/app-health/web/readyz": {Port: 8443, Timeout: 7 * time.Second, Scheme: "https", URL: "/ready", Host: "web.example",
			Header: http.Header{"X-A": {"1", "2"}, "User-Agent": {"$me"}}},
		"/app-health/db-0/startupz": {Port: 5432, Timeout: 2 * time.Second},
		"/app-health/rpc/livez":     {Port: 9000, Timeout: time.Second, GRPC: "service "},
		"/app-health/rpc/readyz":    {Port: 9000, Timeout: 3 * time.Second, GRPC: "service shop.Cart"},
		"/app-lifecycle/web/prestopz": {Port: 8080, Timeout: 10 * time.Minute, Scheme: "http", URL: "/bye", Hook: true,
			Header: http.Header{"Accept": {"*/*"}}},
		"/app-lifecycle/web/poststartz": {Port: 15020, Timeout: 10 * time.Minute, Hook: true},
	}
	if diff := cmp.Diff(want, show); diff != "" {
		t.Error(diff)
	}
	if none, err := ParseProbers("", mesh.AgentPort); err != nil || none.Len() != 0 {
		t.Errorf("no table: %v, %v", none, err)
	}
}

func TestParseProbersRefuses(t *testing.T) {
	const key, hook = "/app-health/web/livez", "/app-lifecycle/web/prestopz"
	for text, want := range map[string]string{
		`[]`:        "not a JSON object",
		`{`:         "not a JSON object",
		`{} {}`:     "not a JSON object",
		`{"/x":{}}`: `"/x": neither of the form`,
		`{"/app-health/web/prestopz":{"tcpSocket":{"port":1}}}`:                                   "neither of the form",
		`{"/app-lifecycle/web/livez":{"tcpSocket":{"port":1}}}`:                                   "neither of the form",
		`{"x/app-health/web/livez":{"tcpSocket":{"port":1}}}`:                                     "neither of the form",
		`{"/app-lifecycle/web/prestopz/":{}}`:                                                     "neither of the form",
		`{"/app-health/a/b/livez":{"tcpSocket":{"port":1}}}`:                                      "neither of the form",
		`{"/app-health/../livez":{"tcpSocket":{"port":1}}}`:                                       "neither of the form",
		`{"` + hook + `":{"grpc":{"port":1}}}`:                                                    "exactly one of httpGet and tcpSocket",
		`{"` + hook + `":{"exec":{"command":["true"]}}}`:                                          `unknown field "exec"`,
		`{"` + hook + `":{"tcpSocket":{"port":1},"timeoutSeconds":3}}`:                            "timeoutSeconds",
		`{"` + hook + `":{"httpGet":{"port":15020}}}`:                                             "port 15020: the agent's own",
		`{"` + key + `":{"grpc":{"port":1},"tcpSocket":{"port":1}}}`:                              "exactly one",
		`{"` + key + `":{"grpc":{"port":0}}}`:                                                     "grpc: port 0",
		`{"` + key + `":{"grpc":{"port":15020}}}`:                                                 "port 15020: the agent's own",
		`{"` + key + `":{"grpc":{"port":1,"service":7}}}`:                                         "grpc.service",
		`{"` + key + `":{"grpc":{"port":1,"tls":true}}}`:                                          `unknown field "tls"`,
		`{"` + key + `":{}}`:                                                                      "exactly one",
		`{"` + key + `":null}`:                                                                    "exactly one",
		`{"` + key + `":{"tcpSocket":{"port":1},"httpGet":{"port":1}}}`:                           "exactly one",
		`{"` + key + `":{"tcpSocket":{"port":"http"}}}`:                                           "tcpSocket.port",
		`{"` + key + `":{"tcpSocket":{"port":0}}}`:                                                "port 0",
		`{"` + key + `":{"tcpSocket":{"port":65536}}}`:                                            "port 65536",
		`{"` + key + `":{"tcpSocket":{"port":15020}}}`:                                            "port 15020",
		`{"` + key + `":{"tcpSocket":{"port":1,"host":"10.0.0.1"}}}`:                              `host "10.0.0.1"`,
		`{"` + key + `":{"httpGet":{"port":1,"host":"metadata"}}}`:                                `host "metadata"`,
		`{"` + key + `":{"httpGet":{"port":1,"scheme":"FILE"}}}`:                                  `scheme "FILE"`,
		`{"` + key + `":{"httpGet":{"port":1},"timeoutSeconds":-1}}`:                              "timeoutSeconds",
		`{"` + key + `":{"httpGet":{"port":1,"httpHeaders":[{"name":""}]}}}`:                      "not a header",
		`{"` + key + `":{"httpGet":{"port":1,"httpHeaders":[{"name":"A","value":"b\r\nC: d"}]}}}`: "not a header",
	} {
		got, err := ParseProbers(text, mesh.AgentPort)
		if err == nil {
			t.Errorf("%s: accepted as %v", text, got)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %q does not say %q", text, err, want)
		}
		if strings.Contains(text, key) && !strings.Contains(err.Error(), key) || strings.Contains(text, hook) && !strings.Contains(err.Error(), hook) {
			t.Errorf("%s: error %q does not name the key", text, err)
		}
	}
}

// FuzzProbers holds the laws of a table that was accepted: every probe goes to a
// port of the application, ends, and makes a request that can be sent.
func FuzzProbers(f *testing.F) {
	f.Add(`{"/app-health/web/livez":{"httpGet":{"path":"/live?a=b","port":8080,"scheme":"HTTPS","httpHeaders":[{"name":"Host","value":"x"}]},"timeoutSeconds":3}}`)
	f.Add(`{"/app-health/db/readyz":{"tcpSocket":{"port":5432}}}`)
	f.Add(`{"/app-health/web/startupz":{"httpGet":{"path":"//a@b:c/%zz","port":1}}}`)
	f.Add(`{"/app-health/web/startupz":{"httpGet":{"path":"%2f%00?%","port":1}},"/x":null}`)
	f.Add(`{"/app-health/rpc/livez":{"grpc":{"port":9000,"service":null}},"/app-lifecycle/a/prestopz":{"tcpSocket":{"port":1}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		table, err := ParseProbers(text, mesh.AgentPort)
		if err != nil {
			return
		}
		if text != "" && !json.Valid([]byte(text)) {
			t.Errorf("%q is not JSON", text)
		}
		for key, p := range table.probes {
			if strings.HasPrefix(key, "/app-lifecycle/") != p.hook || !p.hook && !strings.HasPrefix(key, "/app-health/") || strings.Count(key, "/") != 3 {
				t.Errorf("key %q", key)
			}
			if p.port == 0 || p.port == 15020 || p.timeout <= 0 {
				t.Errorf("%s: port %d, timeout %v", key, p.port, p.timeout)
			}
			if p.grpc != nil && (p.http != nil || p.hook) {
				t.Errorf("%s: gRPC and something else", key)
			}
			if p.http == nil {
				continue
			}
			req, err := p.http.request(t.Context(), "10.0.0.1:80", "")
			if err != nil {
				t.Errorf("%s: %v", key, err)
				continue
			}
			if req.URL.Host != "10.0.0.1:80" || req.URL.User != nil {
				t.Errorf("%s leads to %s", key, req.URL)
			}
		}
	})
}
