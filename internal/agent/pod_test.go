package agent

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// get asks over a connection from the namespace, as that user.
func (n namespace) get(who person, addr, path string) (int, string, error) {
	conn, err := n.dial(who, addr)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(enough))
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, addr); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// enough is far more than anything here takes.
const enough = time.Minute

// eventually gives a started process its time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	for !ok() {
		if !sleep(ctx, 20*time.Millisecond) {
			t.Fatalf("not within %v: %s", enough, what)
		}
	}
}

// TestPod is a pod without Kubernetes: capture, the sidecar as the user that it
// has in a cluster, the real Envoy, an application, a neighbour that is Citadel
// and client and server.
func TestPod(t *testing.T) {
	envoy := envoyBinary(t)
	hosts := newNetwork(t)
	dir := openDir(t)
	if err := os.Chown(dir, mesh.ProxyUID, mesh.ProxyUID); err != nil {
		t.Fatal(err)
	}
	// Both programs where that user can reach them.
	proxy := filepath.Join(dir, "envoy")
	if err := copyFile(envoy, proxy); err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "agent")
	if err := copyFile(os.Args[0], self); err != nil {
		t.Fatal(err)
	}

	server := &citadelServer{ca: newTestCA(t)}
	var withheld atomic.Bool
	withheld.Store(true)
	server.withhold(&withheld)
	server.serve(hosts.neighbour.listen(neighbourIP + ":8060"))

	// The application tells who asked it; its probe fails when told to.
	var sick atomic.Bool
	serveHTTP(t, hosts.pod.listen("0.0.0.0:8080"), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" && sick.Load() {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s from %s", r.URL.Path, host)
	})
	for _, port := range []int{9090, 15006} {
		serveHTTP(t, hosts.neighbour.listen(fmt.Sprintf("0.0.0.0:%d", port)), func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "neighbour %d %s", port, r.URL.Path)
		})
	}

	hosts.pod.do(func() error { return testCaptureOfPod().Install(t.Context(), discardLog()) })
	config := testProxy{
		Account: "sleep", Address: podIP, CA: neighbourIP + ":8060", Envoy: proxy, Certs: dir, Config: dir,
		Probers: `{"/app-health/app/readyz":{"httpGet":{"path":"/ready","port":8080},"timeoutSeconds":60},"/app-health/app/livez":{"tcpSocket":{"port":81},"timeoutSeconds":60}}`,
		Root:    writePEM(t, dir, "ca.pem", pemText(server.ca.cert)), Token: writePEM(t, dir, "token", "token"),
	}
	sidecar := hosts.pod.start(self, config)

	pod, neighbour := podIP+":", neighbourIP+":"
	app := person{1000, 1000}
	expect := func(what string, from namespace, who person, addr, path string, code int, want string) {
		t.Helper()
		got, body, err := from.get(who, addr, path)
		if err != nil || got != code || !strings.Contains(body, want) {
			t.Errorf("%s: %s%s: %d %q %v, want %d %q", what, addr, path, got, body, err, code, want)
		}
	}

	// Without a certificate: probes are answered, the pod is not ready.
	eventually(t, "the agent's port", func() bool {
		code, _, _ := hosts.neighbour.get(root, pod+"15020", "/app-health/app/readyz")
		return code == 200
	})
	expect("no certificate yet", hosts.neighbour, root, pod+"15020", mesh.ReadyPath, 503, "")
	if got := hosts.neighbour.greeting(root, pod+"15021"); got != "refused" {
		t.Errorf("Envoy before the first certificate: %s", got)
	}
	withheld.Store(false)
	eventually(t, "ready", func() bool {
		code, _, _ := hosts.neighbour.get(root, pod+"15021", mesh.ReadyPath)
		return code == 200
	})
	if _, err := tls.LoadX509KeyPair(filepath.Join(dir, mesh.CertChain), filepath.Join(dir, mesh.CertKey)); err != nil {
		t.Error("certificate: ", err)
	}

	// Both ways through Envoy: the application sees the pod's own address, which
	// Envoy dials from, and Envoy counts what it passed on.
	expect("incoming", hosts.neighbour, root, pod+"8080", "/in", 200, "/in from "+podIP)
	expect("outgoing", hosts.pod, app, neighbour+"9090", "/out", 200, "neighbour 9090 /out")
	expect("outgoing to a port of the same number as ours", hosts.pod, app, neighbour+"15006", "/out", 200, "neighbour 15006 /out")
	expect("within the pod", hosts.pod, app, pod+"8080", "/self", 200, "/self from "+podIP)
	metric := func(name string) int {
		t.Helper()
		_, text, err := hosts.neighbour.get(root, pod+"15090", "/stats/prometheus")
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\d+)$`).FindStringSubmatch(text)
		if found == nil {
			t.Fatal("no metric ", name)
		}
		n, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const connections = `envoy_cluster_upstream_cx_total{envoy_cluster_name=`
	if n := metric(connections + `"InboundPassthroughCluster"}`); n != 1 {
		t.Errorf("%d connections passed in, want 1", n)
	}
	if n := metric(connections + `"PassthroughCluster"}`); n != 2 {
		t.Errorf("%d connections passed out, want 2", n)
	}

	// The proxy is never made to dial itself, from outside or inside.
	for _, port := range []string{"15001", "15006"} {
		if got := hosts.neighbour.greeting(root, pod+port); got != "refused" {
			t.Errorf("port %s from outside: %s", port, got)
		}
		for _, host := range []string{pod, "127.0.0.1:", "127.0.0.9:"} {
			if _, _, err := hosts.pod.get(app, host+port, "/"); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s%s from inside: %v, want it closed", host, port, err)
			}
		}
	}
	if in, out := metric(connections+`"InboundPassthroughCluster"}`), metric(connections+`"PassthroughCluster"}`); in != 1 || out != 2 {
		t.Errorf("dialling the proxy itself made it dial: %d in, %d out", in, out)
	}

	// Strangers see one path of each port, and no admin interface.
	for _, addr := range []string{pod + "15021", pod + "15090"} {
		for _, path := range []string{"/", "/stats", "/config_dump", "/quitquitquit", "/ready", mesh.ReadyPath + "/", "/app-health/app/readyz", "/stats/prometheus/x"} {
			expect("unknown path", hosts.neighbour, root, addr, path, 404, "")
		}
	}
	if _, _, err := hosts.neighbour.get(root, pod+"15000", "/stats"); err == nil {
		t.Error("the admin interface answers a neighbour")
	}

	// A failing application is seen as such.
	sick.Store(true)
	expect("sick application", hosts.neighbour, root, pod+"15020", "/app-health/app/readyz", 418, "")
	expect("closed port", hosts.neighbour, root, pod+"15020", "/app-health/app/livez", 502, "")

	// Told to stop: unready at once, connections under way are waited for, then a
	// clean end within drain time.
	under, err := hosts.neighbour.dial(root, pod+"8080")
	if err != nil {
		t.Fatal(err)
	}
	defer under.Close()
	if err := sidecar.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "unready", func() bool {
		code, _, _ := hosts.neighbour.get(root, pod+"15020", mesh.ReadyPath)
		return code == 503
	})
	fmt.Fprintf(under, "GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(under), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("a connection under way while draining: %v", err)
	} else {
		resp.Body.Close()
	}
	under.Close()
	if err := sidecar.Wait(); err != nil {
		t.Errorf("end: %v", err)
	}

	// A second life adopts the certificate, also without a CA, and ends when its
	// Envoy does, with its status.
	withheld.Store(true)
	sidecar = hosts.pod.start(self, config)
	eventually(t, "ready again", func() bool {
		code, _, _ := hosts.neighbour.get(root, pod+"15021", mesh.ReadyPath)
		return code == 200
	})
	if err := syscall.Kill(childOf(t, sidecar.Process.Pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := sidecar.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 137 {
		t.Errorf("Envoy killed: the agent ended with %v, want status 137", err)
	}
}

func testCaptureOfPod() Capture {
	return Capture{ProxyUID: mesh.ProxyUID, InboundPort: mesh.InboundPort, OutboundPort: mesh.OutboundPort,
		ExcludeInbound: []uint16{mesh.AgentPort, mesh.ReadinessPort, mesh.EnvoyStatsPort}}
}

// start runs the sidecar in the namespace, as the user that it has in a cluster.
func (n namespace) start(binary string, config testProxy) *exec.Cmd {
	n.t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = []string{proxyVar + "=" + string(text)}
	cmd.Dir = "/"
	log := &strings.Builder{}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Credential: &syscall.Credential{Uid: mesh.ProxyUID, Gid: mesh.ProxyUID},
	}
	n.do(cmd.Start)
	n.t.Cleanup(func() {
		if cmd.ProcessState == nil { // the test failed half-way
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
		if n.t.Failed() {
			n.t.Logf("the sidecar's log:\n%s", log)
		}
	})
	return cmd
}

func childOf(t *testing.T, pid int) int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if child, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return child
		}
	}
	t.Fatal("the sidecar has no child")
	return 0
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

func serveHTTP(t *testing.T, l net.Listener, h http.HandlerFunc) {
	t.Helper()
	srv := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
}
