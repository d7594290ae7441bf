package agent

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func TestProbeRedirects(t *testing.T) {
	var strayed atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		strayed.Add(1)
		w.WriteHeader(500)
	}))
	defer other.Close()
	var app *httptest.Server
	app = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{
			"/here": "/ok", "/here-bad": "/bad", "/absolute": app.URL + "/bad", "/twice": "/absolute", "/loop": "/loop",
			"/port": other.URL + "/", "/default-port": "http://127.0.0.1/", "/default-https": "https://127.0.0.1/",
			"/name": strings.Replace(app.URL, "127.0.0.1", "localhost", 1) + "/bad", "/address": strings.Replace(app.URL, "127.0.0.1", "127.0.0.2", 1) + "/bad",
			"/scheme": strings.Replace(app.URL, "http", "https", 1),
		}[r.URL.Path]
		switch {
		case to != "":
			http.Redirect(w, r, to, http.StatusFound)
		case r.URL.Path == "/bad":
			w.WriteHeader(503)
		case r.URL.Path == "/nowhere":
			w.WriteHeader(302)
		}
	}))
	defer app.Close()
	for path, want := range map[string]int{
		"/here": 200, "/here-bad": 503, "/absolute": 503, "/twice": 503, "/loop": 502, "/scheme": 502, "/nowhere": 200,
		"/port": 200, "/default-port": 200, "/default-https": 200, "/name": 200, "/address": 200,
	} {
		agent := startProber(t, fmt.Sprintf(`{"httpGet":{"path":%q,"port":%d}}`, path, portOf(t, app.URL)))
		if got := call(t, "GET", agent.URL+livez, nil); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	if n := strayed.Load(); n != 0 {
		t.Errorf("another port was asked %d times", n)
	}
}

func TestPortIn(t *testing.T) {
	for text, want := range map[string]string{"http://a": "80", "https://a": "443", "http://a:443": "443", "https://[::1]:8443/x": "8443"} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := portIn(u); got != want {
			t.Errorf("%s: port %s, want %s", text, got, want)
		}
	}
}

// A probe speaks what the application offers by ALPN, and trusts every certificate.
func TestProbeHTTPS(t *testing.T) {
	for offer, c := range map[string]struct {
		protocols []string
		proto     string
		want      int
	}{
		"both":    {[]string{"h2", "http/1.1"}, "HTTP/2.0", 200},
		"h2 only": {[]string{"h2"}, "HTTP/2.0", 200},
		"h1 only": {[]string{"http/1.1"}, "HTTP/1.1", 200},
		"none":    {nil, "HTTP/1.1", 200},
		"unknown": {[]string{"spdy/9"}, "", 502},
	} {
		t.Run(offer, func(t *testing.T) {
			var proto string
			app := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { proto = r.Proto }))
			app.EnableHTTP2 = slices.Contains(c.protocols, "h2")
			app.TLS = &tls.Config{NextProtos: c.protocols}
			app.Config.ErrorLog = log.New(io.Discard, "", 0)
			app.StartTLS() // certified for example.com by nobody
			defer app.Close()
			app.TLS.NextProtos = c.protocols // as it was before the server added to it
			agent := startProber(t, fmt.Sprintf(`{"httpGet":{"port":%d,"scheme":"HTTPS"}}`, portOf(t, app.URL)))
			if got := call(t, "GET", agent.URL+livez, nil); got != c.want || proto != c.proto {
				t.Errorf("%d by %q, want %d by %q", got, proto, c.want, c.proto)
			}
			agent = startProber(t, fmt.Sprintf(`{"httpGet":{"port":%d}}`, portOf(t, app.URL)))
			if got := call(t, "GET", agent.URL+livez, nil); got != 400 {
				t.Errorf("HTTP to an HTTPS port: %d, want the server's own 400", got)
			}
		})
	}
}

// The agent asks at the pod's address, of either family, not at its loopback.
func TestProbeOfTheOtherFamily(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("needs IPv6: ", err)
	}
	var host string
	serveHTTP(t, l, func(_ http.ResponseWriter, r *http.Request) { host = r.Host })
	port := l.Addr().(*net.TCPAddr).Port
	table := fmt.Sprintf(`{"/app-health/a/livez":{"httpGet":{"port":%d}},"/app-health/a/readyz":{"tcpSocket":{"port":%[1]d}}}`, port)
	for pod, want := range map[string]int{"::1": 200, "127.0.0.1": 502} {
		agent := startAgent(t, pod, table)
		for _, path := range []string{"/app-health/a/livez", "/app-health/a/readyz"} {
			if got := call(t, "GET", agent.URL+path, nil); got != want {
				t.Errorf("pod %s, %s: %d, want %d", pod, path, got, want)
			}
		}
	}
	if want := fmt.Sprintf("[::1]:%d", port); host != want {
		t.Errorf("host %q, want %q", host, want)
	}
}
