package agent

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseProbers(t *testing.T) {
	got, err := ParseProbers(`{
		"/app-health/web/livez": {"httpGet": {"path": "/live?full=1", "port": 8080, "scheme": "HTTP"}},
		"/app-health/web/readyz": {"httpGet": {"path": "ready", "port": 8443, "scheme": "HTTPS", "httpHeaders": [
			{"name": "Host", "value": "web.example"}, {"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"},
			{"name": "Accept", "value": ""}, {"name": "User-Agent", "value": "\u0024me"}]}, "timeoutSeconds": 7},
		"/app-health/db-0/startupz": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 2}}`)
	if err != nil {
		t.Fatal(err)
	}
	type flat struct {
		Port              uint16
		Timeout           time.Duration
		Scheme, URL, Host string
		Header            http.Header
	}
	show := map[string]flat{}
	for key, p := range got.probes {
		f := flat{Port: p.port, Timeout: p.timeout}
		if p.http != nil {
			f.Scheme, f.URL, f.Host, f.Header = p.http.scheme, p.http.path.String(), p.http.host, p.http.header
		}
		show[key] = f
	}
	want := map[string]flat{
		"/app-health/web/livez": {8080, time.Second, "http", "/live?full=1", "", http.Header{"Accept": {"*/*"}}},
		"/app-health/web/readyz": {8443, 7 * time.Second, "https", "/ready", "web.example",
			http.Header{"X-A": {"1", "2"}, "User-Agent": {"$me"}}},
		"/app-health/db-0/startupz": {5432, 2 * time.Second, "", "", "", nil},
	}
	if diff := cmp.Diff(want, show); diff != "" {
		t.Error(diff)
	}
	if none, err := ParseProbers(""); err != nil || none.Len() != 0 {
		t.Errorf("no table: %v, %v", none, err)
	}
}

func TestParseProbersRefuses(t *testing.T) {
	const key = "/app-health/web/livez"
	for text, want := range map[string]string{
		`[]`:        "not a JSON object",
		`{`:         "not a JSON object",
		`{} {}`:     "not a JSON object",
		`{"/x":{}}`: `"/x": not of the form`,
		`{"/app-health/web/prestopz":{"tcpSocket":{"port":1}}}`: "not of the form",
		`{"/app-health/a/b/livez":{"tcpSocket":{"port":1}}}`:    "not of the form",
		`{"/app-health/../livez":{"tcpSocket":{"port":1}}}`:     "not of the form",
		`{"` + key + `":{}}`:   "exactly one",
		`{"` + key + `":null}`: "exactly one",
		`{"` + key + `":{"tcpSocket":{"port":1},"httpGet":{"port":1}}}`:                           "exactly one",
		`{"` + key + `":{"grpc":{"port":1}}}`:                                                     `unknown field "grpc"`,
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
		got, err := ParseProbers(text)
		if err == nil {
			t.Errorf("%s: accepted as %v", text, got)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %q does not say %q", text, err, want)
		}
		if strings.Contains(text, key) && !strings.Contains(err.Error(), key) {
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
	f.Fuzz(func(t *testing.T, text string) {
		table, err := ParseProbers(text)
		if err != nil {
			return
		}
		if text != "" && !json.Valid([]byte(text)) {
			t.Errorf("%q is not JSON", text)
		}
		for key, p := range table.probes {
			if !strings.HasPrefix(key, "/app-health/") || strings.Count(key, "/") != 3 {
				t.Errorf("key %q", key)
			}
			if p.port == 0 || p.port == 15020 || p.timeout <= 0 {
				t.Errorf("%s: port %d, timeout %v", key, p.port, p.timeout)
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
