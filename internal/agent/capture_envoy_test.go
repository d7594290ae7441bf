package agent

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestCaptureByEnvoy leads traffic through the real Envoy, in each mode and by each
// version of IP.
func TestCaptureByEnvoy(t *testing.T) {
	binary := envoyBinary(t)
	for _, transparent := range []bool{false, true} {
		for _, ip := range []string{podIP, podIP6} {
			t.Run(fmt.Sprintf("transparent %v, %s", transparent, ip), func(t *testing.T) {
				if ip == podIP6 {
					needIPv6(t)
				}
				throughEnvoy(t, binary, transparent, netip.MustParseAddr(ip))
			})
		}
	}
}

func throughEnvoy(t *testing.T, binary string, transparent bool, ip netip.Addr) {
	hosts := newNetwork(t)
	neighbour, any := neighbourIP, "0.0.0.0"
	if ip.Is6() {
		neighbour, any = neighbourIP6, "::"
	}
	pod := func(port int) string { return net.JoinHostPort(ip.String(), fmt.Sprint(port)) }
	who := func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s from %s", r.Host, host)
	}
	serveHTTP(t, hosts.pod.listen(net.JoinHostPort(any, "8080")), who)
	serveHTTP(t, hosts.pod.listen(net.JoinHostPort(any, "8081")), who)
	serveHTTP(t, hosts.neighbour.listen(net.JoinHostPort(any, "9090")), who)

	c := testCaptureOfPod()
	c.Transparent, c.ProxyGID = transparent, mesh.ProxyUID
	c.ExcludeInbound = append(c.ExcludeInbound, 8081)
	hosts.pod.capture(c)
	for _, port := range []int{8080, mesh.InboundPort, mesh.OutboundPort} {
		if got := hosts.neighbour.greeting(root, pod(port)); got != "refused" {
			t.Errorf("port %d before Envoy: %s", port, got)
		}
	}
	hosts.pod.envoy(binary, Proxy{ID: testID(t, "sleep"), Pod: "sleep", Address: ip, Transparent: transparent})

	expect := func(what string, from namespace, who person, addr, path string, code int, want string) {
		t.Helper()
		got, body, err := from.get(who, addr, path)
		if err != nil || got != code || !strings.Contains(body, want) {
			t.Errorf("%s: %s%s: %d %q %v, want %d %q", what, addr, path, got, body, err, code, want)
		}
	}
	eventually(t, "Envoy", func() bool {
		code, _, _ := hosts.neighbour.get(root, pod(mesh.EnvoyStatsPort), "/stats/prometheus")
		return code == 200
	})
	caller := ip.String() // who the application sees
	if transparent {
		caller = neighbour
	}
	out := net.JoinHostPort(neighbour, "9090")
	for range 20 { // of several workers, and with ports of their own
		expect("incoming", hosts.neighbour, root, pod(8080), "/", 200, pod(8080)+" from "+caller)
	}
	if t.Failed() {
		return // the rest would take long to say the same
	}
	expect("excluded", hosts.neighbour, root, pod(8081), "/", 200, pod(8081)+" from "+neighbour)
	expect("outgoing", hosts.pod, app, out, "/", 200, out+" from "+ip.String())
	expect("within the pod", hosts.pod, app, pod(8080), "/", 200, pod(8080)+" from "+ip.String())
	for cluster, want := range map[string]string{clusterInbound: "20", clusterOutbound: "1"} {
		expect("passed on", hosts.neighbour, root, pod(mesh.EnvoyStatsPort), "/stats/prometheus", 200,
			"\nenvoy_cluster_upstream_cx_total{envoy_cluster_name=\""+cluster+"\"} "+want+"\n")
	}
	// Nobody asks the agent here; what counts is that the listener does.
	expect("readiness", hosts.neighbour, root, pod(mesh.ReadinessPort), mesh.ReadyPath, 503, "")
	for _, port := range []int{mesh.InboundPort, mesh.OutboundPort} {
		if got := hosts.neighbour.greeting(root, pod(port)); got != "refused" {
			t.Errorf("port %d: %s", port, got)
		}
		if _, _, err := hosts.pod.get(app, pod(port), "/"); err == nil {
			t.Errorf("port %d answers the pod", port)
		}
	}
}

// envoy runs the Envoy of a sidecar until the test ends, with no right beyond what it
// has in a cluster.
func (n namespace) envoy(binary string, p Proxy) {
	n.t.Helper()
	dir := openDir(n.t)
	program, config := filepath.Join(dir, "envoy"), filepath.Join(dir, "bootstrap.json")
	if err := os.Link(binary, program); err != nil {
		if err := copyFile(binary, program); err != nil {
			n.t.Fatal(err)
		}
	}
	text, err := bootstrap(p, len(anyHost(n.t)) == 2)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(config, text, 0o644); err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-path", config, "--concurrency", "2", "--log-level", "warning", "--disable-hot-restart")
	var log strings.Builder
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mesh.ProxyUID, Gid: mesh.ProxyUID}}
	if p.Transparent {
		// Root in a cluster; here somebody who has that capability and no other.
		cmd.SysProcAttr.Credential.Uid = 65534
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
	}
	n.do(cmd.Start)
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if n.t.Failed() {
			n.t.Logf("Envoy's log:\n%s", &log)
		}
	})
}
