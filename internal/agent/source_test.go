package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func addresses(t *testing.T, text string) []netip.Addr {
	t.Helper()
	var as []netip.Addr
	for word := range strings.FieldsSeq(text) {
		a, err := netip.ParseAddr(word)
		if err != nil {
			t.Fatal(err)
		}
		as = append(as, a)
	}
	return as
}

func TestSources(t *testing.T) {
	const local = "127.0.0.1 127.9.9.9 ::1 "
	cases := map[string]struct {
		set, pod, node, gateways string
		behind                   bool
		allowed, refused         string // "*": everybody
		why                      string
	}{
		"a bridge": {set: "node", pod: "10.244.1.7", node: "192.168.0.5", gateways: "10.244.1.1",
			allowed: local + "10.244.1.1 192.168.0.5 10.244.1.7", refused: "10.244.1.8 192.168.0.6 10.244.0.0 fd00::1"},
		"a bridge of both families": {set: "node", pod: "10.244.1.7", node: "192.168.0.5 fd01::5", gateways: "10.244.1.1 fd00::1",
			allowed: local + "10.244.1.1 fd00::1 fd01::5", refused: "fd00::8"},
		"a bridge, the node unknown": {set: "node", pod: "10.244.1.7", gateways: "10.244.1.1",
			allowed: local + "10.244.1.1", refused: "192.168.0.5"},
		"IPv6": {set: "node", pod: "fd00::7", node: "fd01::5", gateways: "fd00::1",
			allowed: local + "fd00::1 fd01::5 fd00::7", refused: "fd00::8 10.0.0.1"},
		"the other family's gateway is link-local": {set: "node", pod: "10.244.1.7", gateways: "10.244.1.1 fe80::1",
			allowed: local + "10.244.1.1", refused: "fe80::1 10.244.1.8"},
		"routed": {set: "node", pod: "10.244.1.7", node: "192.168.0.5", gateways: "169.254.1.1",
			allowed: "*", why: "169.254.1.1 is link-local"},
		"routed, IPv6": {set: "node", pod: "fd00::7", node: "fd01::5", gateways: "10.0.0.1 fe80::1",
			allowed: "*", why: "fe80::1 is link-local"},
		"two gateways, one link-local": {set: "node", pod: "10.244.1.7", gateways: "10.244.1.1 169.254.1.1",
			allowed: "*", why: "link-local"},
		"a router before the node": {set: "node", pod: "10.244.1.7", node: "192.168.0.5", gateways: "10.244.1.1", behind: true,
			allowed: "*", why: "the gateway is not the node"},
		"no gateway": {set: "node", pod: "10.244.1.7", node: "192.168.0.5",
			allowed: "*", why: "no default gateway"},
		"a gateway of the other family only": {set: "node", pod: "10.244.1.7", gateways: "fd00::1",
			allowed: "*", why: "no default gateway"},
		"any": {set: "any", pod: "10.244.1.7", gateways: "10.244.1.1", allowed: "*", why: "so set"},
		"ranges": {set: "192.168.7.9/24,fd01::/64,::ffff:172.16.0.0/112", pod: "10.244.1.7", node: "10.0.0.5", gateways: "10.244.1.1",
			allowed: local + "172.16.9.9 192.168.7.1 192.168.7.255 fd01::7 10.244.1.7", refused: "192.168.8.1 fd02::1 10.244.1.1 10.0.0.5"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := ParseProbeFrom(c.set)
			if err != nil {
				t.Fatal(err)
			}
			got := f.sources(surroundings{pod: addresses(t, c.pod)[0], node: addresses(t, c.node), gateways: addresses(t, c.gateways), behind: c.behind})
			if !strings.Contains(got.open, c.why) || (got.open != "") != (c.allowed == "*") {
				t.Errorf("open: %q, want %q", got.open, c.why)
			}
			if c.allowed == "*" {
				c.allowed = "10.244.1.8 8.8.8.8 fe80::9 127.0.0.1"
			}
			for _, a := range addresses(t, c.allowed) {
				if !got.allow(a) {
					t.Errorf("%s is refused", a)
				}
			}
			for _, a := range addresses(t, c.refused) {
				if got.allow(a) {
					t.Errorf("%s is allowed", a)
				}
			}
			if got.open == "" && got.allow(netip.Addr{}) {
				t.Error("an unknown address is allowed")
			}
		})
	}
}

func TestParseProbeFromRefuses(t *testing.T) {
	for _, text := range []string{"", "nobody", "10.0.0.1", "10.0.0.0/33", "node,any", "10.0.0.0/8,"} {
		if got, err := ParseProbeFrom(text); err == nil {
			t.Errorf("%q: accepted as %v", text, got)
		}
	}
}

// A stranger learns nothing: every path, there or not, is answered alike, and the
// application is not asked.
func TestStrangersLearnNothing(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the application was asked") }))
	defer app.Close()
	table, err := ParseProbers(fmt.Sprintf(`{%q:{"httpGet":{"port":%d}},%q:{"httpGet":{"port":%[2]d}}}`, livez, portOf(t, app.URL), prestopz), mesh.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	p := Proxy{Probers: table, Address: netip.MustParseAddr("127.0.0.1"), Log: slog.New(slog.NewTextHandler(&log, nil))}
	handler := p.testHandler(sources{ranges: single(netip.MustParseAddr("10.0.0.1"))})
	ask := func(from, method, path string) *http.Response {
		r := httptest.NewRequest(method, path, nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Result()
	}
	for _, path := range []string{livez, prestopz, mesh.ReadyPath, mesh.MetricsPath, "/", "/app-health/other/livez"} {
		for _, method := range []string{"GET", "POST", "HEAD"} {
			resp := ask("10.0.0.2:4000", method, path)
			if resp.StatusCode != 403 || resp.ContentLength > 0 || len(resp.Header) > 0 {
				t.Errorf("%s %s: %d %v", method, path, resp.StatusCode, resp.Header)
			}
		}
	}
	if n := strings.Count(log.String(), "probe refused"); n != 1 || !strings.Contains(log.String(), "from=10.0.0.2") {
		t.Errorf("told %d times: %s", n, &log)
	}
	for i := range 100 {
		ask(fmt.Sprintf("10.0.1.%d:4000", i), "GET", livez)
	}
	if n := strings.Count(log.String(), "probe refused"); n != maxRefusals {
		t.Errorf("told of %d strangers", n)
	}
	for _, from := range []string{"10.0.0.1:4000", "[::ffff:10.0.0.1]:4000", "127.0.0.1:4000", "[::1]:4000"} {
		if resp := ask(from, "GET", "/app-health/other/livez"); resp.StatusCode != 404 {
			t.Errorf("%s: %d, want 404", from, resp.StatusCode)
		}
	}
}

func TestParseRoutes(t *testing.T) {
	// As a bridge network gives them, beside a route that is not the default's, one
	// without a gateway and ones that are none.
	v4 := parseRoutes4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t" + native4("10.244.1.1") + "\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t" + native4("10.244.1.0") + "\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		"eth0\t" + native4("10.96.0.0") + "\t" + native4("10.244.1.9") + "\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
		"eth1\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth2\t00000000\t" + native4("169.254.1.1") + "\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth3\t00000000\tzzzz\t0003\t0\t0\t0\t00000000\t0\t0\t0\nshort\n")
	v6 := parseRoutes6("00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n" +
		"fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n" +
		"fd010000000000000000000000000000 40 00000000000000000000000000000000 00 fd000000000000000000000000000009 00000100 00000001 00000000 00000003     eth0\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd00 00000400 00000002 00000000 00000003     eth0\nshort\n")
	if diff := cmp.Diff([]string{"10.244.1.1", "169.254.1.1", "fd00::1"}, words(append(v4, v6...))); diff != "" {
		t.Error(diff)
	}
}

func words(as []netip.Addr) []string {
	var texts []string
	for _, a := range as {
		texts = append(texts, a.String())
	}
	return texts
}

// native4 spells an address as the kernel of this machine does.
func native4(text string) string {
	b := netip.MustParseAddr(text).As4()
	return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b[:]))
}
