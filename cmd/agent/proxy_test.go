package main

import (
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// proxyError is what parseProxy says of a pod with these variables besides.
func proxyError(env map[string]string, args ...string) error {
	all := podEnv()
	maps.Copy(all, env)
	_, err := parseProxy(args, func(name string) string { return all[name] }, io.Discard)
	return err
}

func TestProxyServesWhatItIsTold(t *testing.T) {
	env := podEnv()
	maps.Copy(env, map[string]string{
		"INSTANCE_IP": "[fd00::7]", "HOST_IPS": "192.168.0.5,[fd01::5]",
		"ISTIO_KUBE_APP_PROBERS":       `{"/app-health/sleep/livez":{"grpc":{"port":15020}},"/app-lifecycle/sleep/prestopz":{"tcpSocket":{"port":80}}}`,
		"ISTIO_PROMETHEUS_ANNOTATIONS": `{"scrape":"true","port":"15020"}`,
	})
	p, err := parseProxy([]string{"--status-port=15999", "--mode=TPROXY", "--probe-from=192.168.0.0/24"}, func(name string) string { return env[name] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p.Port != 15999 || !p.Transparent || p.Address.String() != "fd00::7" || p.Probers.Len() != 2 ||
		len(p.Node) != 2 || p.Node[0].String() != "192.168.0.5" || p.Node[1].String() != "fd01::5" {
		t.Errorf("%+v", p)
	}
	if p, err = parseProxy(nil, func(name string) string { return podEnv()[name] }, io.Discard); err != nil || p.Port != mesh.AgentPort || p.Transparent {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestProxyRefuses(t *testing.T) {
	for _, port := range []string{"15000", "15001", "15006", "15021", "15090", "0"} {
		if err := proxyError(nil, "--status-port="+port); err == nil || !strings.Contains(err.Error(), "status-port") {
			t.Errorf("status port %s: %v", port, err)
		}
	}
	for args, want := range map[string]string{
		"--mode=NONE": `-mode: "NONE"`, "--mode=tproxy": `-mode: "tproxy"`, "--probe-from=": "probe-from", "--probe-from=nobody": "probe-from",
	} {
		if err := proxyError(nil, args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	for name, value := range map[string]string{
		"HOST_IPS": "192.168.0.5,", "INSTANCE_IP": "[10.0.0.1", "ISTIO_PROMETHEUS_ANNOTATIONS": "[]", "ISTIO_PROMETHEUS_SCRAPE_TARGETS": "15999:/m",
		"ISTIO_KUBE_APP_PROBERS": `{"/app-health/sleep/livez":{"tcpSocket":{"port":15999}}}`,
	} {
		if err := proxyError(map[string]string{name: value}, "--status-port=15999"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

func TestWait(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	args := []string{"wait", "--status-port=" + port, "--timeout=200ms"}
	synctest.Test(t, func(t *testing.T) { // where no time passes while an answer is under way
		err = run(t.Context(), args, nil, io.Discard)
	})
	for _, want := range []string{":" + port + mesh.ReadyPath, "not within 200ms", "404"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
	srv.Close()
	<-done
	for _, wrong := range []string{"--timeout=0", "--status-port=0", "now"} {
		if err := run(t.Context(), []string{"wait", wrong}, nil, io.Discard); err == nil {
			t.Errorf("%s: accepted", wrong)
		}
	}
}
