//go:build linux && long

package main

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/host"
)

func slash16(s string) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}
	}
	p, _ = p.Addr().Prefix(16)
	return p
}

// Two clusters beside each other, one of two nodes, whose pods reach each other
// by name across nodes, and which goes on without its API server.
func TestTwoClusters(t *testing.T) {
	before := hostState(t, "labt-a")
	a, b := newTestLab(t, "labt-a", 2), newTestLab(t, "labt-b", 1)
	started := time.Now()
	a.run(t, "up")
	t.Logf("two nodes up in %.1f s", time.Since(started).Seconds())
	b.run(t, "up")
	if out := a.run(t, "up"); !strings.Contains(out, "is up already") {
		t.Errorf("up again said:\n%s", out)
	}
	pa, pb := a.net(t), b.net(t)
	if pa.Net().Overlaps(pb.Net()) {
		t.Errorf("%v and %v overlap", pa.Net(), pb.Net())
	}
	for l, want := range map[*testLab]string{&a: "node1 node2", &b: "node1"} {
		if got := l.kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"); got != want {
			t.Errorf("%s has nodes %s", l.cluster, got)
		}
	}

	pushEcho(t, pa.Mirror())
	eventually(t, "a default service account", func() bool { _, err := a.tryKubectl("get", "sa", "default"); return err == nil })
	a.kubectl(t, "apply", "-f", "testdata/pods.yaml")
	a.kubectl(t, "wait", "--for=condition=Ready", "pod/one", "pod/two", "--timeout=60s")
	for _, pod := range []string{"one", "two"} {
		for _, server := range []string{"one", "two"} {
			// kube-proxy learns of a ready pod a moment after everybody else.
			eventually(t, pod+" → "+server, func() bool {
				got, err := a.tryKubectl("exec", pod, "-c", "main", "--", "/echo", "get", "http://"+server+".default.svc.cluster.local")
				return err == nil && got == server
			})
		}
	}
	get := func(ip string) (string, error) {
		resp, err := (&http.Client{Timeout: time.Minute}).Get("http://" + ip)
		if err != nil {
			return "", err
		}
		defer func() { _ = resp.Body.Close() }()
		var body bytes.Buffer
		_, err = body.ReadFrom(resp.Body)
		return body.String(), err
	}
	clusterIP := a.kubectl(t, "get", "service", "two", "-o", "jsonpath={.spec.clusterIP}")
	podIP := a.kubectl(t, "get", "pod", "two", "-o", "jsonpath={.status.podIP}")
	for _, addr := range []string{clusterIP, podIP + ":8080"} {
		if got, err := get(addr); err != nil || got != "two" {
			t.Errorf("host → %s: %q, %v", addr, got, err)
		}
	}
	if got := a.kubectl(t, "logs", "one", "-c", "init"); got != "CapEff:\t0000000000001000" {
		t.Errorf("init container with NET_ADMIN: %q", got)
	}
	eventually(t, "an unknown image fails at once", func() bool {
		return strings.Contains(a.kubectl(t, "get", "events", "--field-selector=involvedObject.name=unknown", "-o", "jsonpath={.items[*].message}"), "not found")
	})
	checkToken(t, a.file("sa.key"), a.kubectl(t, "create", "token", "default", "--audience=istio-ca"))
	if log, err := os.ReadFile(filepath.Join(a.logs(), "audit.log")); err != nil || !bytes.Contains(log, []byte(`"verb":"create"`)) || bytes.Contains(log, []byte(`"requestObject"`)) {
		t.Errorf("audit log of %d bytes: %v", len(log), err)
	}

	a.run(t, "stop-apiserver")
	if out, err := a.tryKubectl("get", "--raw=/readyz", "--request-timeout=2s"); err == nil {
		t.Errorf("stopped, it answers %s", out)
	}
	if got, err := get(clusterIP); err != nil || got != "two" {
		t.Errorf("without an API server, host → ClusterIP: %q, %v", got, err)
	}
	a.run(t, "start-apiserver")
	if got := a.kubectl(t, "exec", "two", "--", "/echo", "get", "http://one"); got != "one" {
		t.Errorf("with the API server back: %q", got)
	}

	a.run(t, "down")
	a.expectNothingLeft(t)
	if diff := cmp.Diff(before, hostState(t, "labt-a")); diff != "" {
		t.Errorf("the host has changed (-before +after):\n%s", diff)
	}
	b.kubectl(t, "get", "--raw=/readyz") // untouched
}

// checkToken checks that the key file is the one that the cluster signs with.
func checkToken(t *testing.T, file, token string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	sig, err := base64.RawURLEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 3 {
		t.Fatalf("no token: %v", err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&key.(*rsa.PrivateKey).PublicKey, crypto.SHA256, sum[:], sig); err != nil {
		t.Error(err)
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Aud []string }
	if err := json.Unmarshal(claims, &got); err != nil || !slices.Equal(got.Aud, []string{"istio-ca"}) {
		t.Errorf("audience %v, %v", got.Aud, err)
	}
}

// Whenever up is killed, down leaves nothing.
func TestKilledUp(t *testing.T) {
	before := hostState(t, "labt-k")
	l := newTestLab(t, "labt-k", 1)
	found := func() host.Remnant {
		r, err := host.Find(l.cluster)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, moment := range []struct {
		name string
		come func() bool
	}{
		{"with a bridge", func() bool { return len(found().Links) > 0 }}, // and maybe more by now
		{"with a process", func() bool { return len(found().Nodes) == 1 }},
		{"with cgroups", func() bool { return len(found().Cgroups) > 0 }},
		{"with an API server", func() bool { _, err := l.tryKubectl("get", "--raw=/readyz"); return err == nil }},
		{"with pods", func() bool {
			out, err := l.tryKubectl("get", "pods", "-A", "-o", "jsonpath={.items[*].status.phase}")
			return err == nil && out != ""
		}},
	} {
		t.Run(moment.name, func(t *testing.T) {
			up := l.command("up")
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, moment.name, moment.come)
			if err := up.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = up.Wait()
			l.run(t, "down")
			l.expectNothingLeft(t)
			if diff := cmp.Diff(before, hostState(t, l.cluster)); diff != "" {
				t.Errorf("the host has changed (-before +after):\n%s", diff)
			}
		})
	}
}

// An up that is interrupted cleans up by itself.
func TestInterruptedUp(t *testing.T) {
	l := newTestLab(t, "labt-i", 1)
	up := l.command("up")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a node", func() bool { r, err := host.Find(l.cluster); return err == nil && len(r.Nodes) == 1 })
	if err := up.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := up.Wait(); err == nil {
		t.Error("it says that the cluster is up")
	}
	l.expectNothingLeft(t)
}

// A cluster whose node has died is started anew, and so is what an up that was
// killed has left.
func TestUpAfterCrash(t *testing.T) {
	l := newTestLab(t, "labt-c", 1)
	up := l.command("up")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a node", func() bool { r, err := host.Find(l.cluster); return err == nil && len(r.Nodes) == 1 })
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = up.Wait()
	started := time.Now()
	l.run(t, "up")
	t.Logf("one node up in %.1f s, with what was left of another to clean", time.Since(started).Seconds())

	nodes, err := host.Nodes(l.cluster)
	if err != nil || len(nodes) != 1 {
		t.Fatalf("nodes %v, %v", nodes, err)
	}
	if err := syscall.Kill(nodes[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { n, err := host.Nodes(l.cluster); return err == nil && len(n) == 0 })
	l.run(t, "up")
	l.kubectl(t, "get", "--raw=/readyz")
}

// Another working copy's cluster of the same name is left alone.
func TestElsewhereIsLeftAlone(t *testing.T) {
	l := newTestLab(t, "labt-e", 1)
	l.run(t, "up")
	other := filepath.Join(t.TempDir(), "copy")
	for _, dir := range []string{"hack/cluster/parts", "build"} {
		if err := os.MkdirAll(filepath.Join(other, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	down := l.command("down")
	down.Dir = other
	if out, err := down.CombinedOutput(); err == nil || !strings.Contains(string(out), "belongs to another working copy") {
		t.Errorf("down elsewhere: %v\n%s", err, out)
	}
	l.kubectl(t, "get", "--raw=/readyz")
}
