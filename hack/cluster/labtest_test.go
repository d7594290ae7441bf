//go:build linux && long

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/vishvananda/netlink"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/host"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// testLab is a lab of this working copy, driven from outside by its program.
type testLab struct {
	*lab
	program string
}

// newTestLab skips, and says what is missing, where no cluster can run. It
// downs the cluster before and after the test.
func newTestLab(t *testing.T, cluster string, nodes int) testLab {
	t.Helper()
	if err := supported(); err != nil {
		t.Skip(err)
	}
	l := labOf(t, cluster, nodes)
	l.run(t, "down")
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(l.nodeLog(1))
			t.Logf("%s:\n%s", l.nodeLog(1), b)
		}
		l.run(t, "down")
		if !t.Failed() {
			_ = os.RemoveAll(l.dir())
		}
	})
	return l
}

func labOf(t *testing.T, cluster string, nodes int) testLab {
	t.Helper()
	o, err := parseOptions([]string{"up", "-cluster", cluster, "-nodes", fmt.Sprint(nodes)}, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLab(o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	missing, err := l.builder().Missing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(missing) > 0 {
		t.Skipf("not built: %v (cluster build)", missing)
	}
	program := filepath.Join(t.TempDir(), "cluster")
	build(t, program, ".")
	return testLab{l, program}
}

func build(t *testing.T, program, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
}

func (l testLab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(l.program, args...)
	cmd.Env = append(os.Environ(), "CLUSTER="+l.cluster, fmt.Sprint("NODES=", l.nodes))
	return cmd
}

// run runs a command that must succeed and returns what it said.
func (l testLab) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("cluster %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (l testLab) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.tryKubectl(args...)
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return out
}

func (l testLab) tryKubectl(args ...string) (string, error) {
	cmd := exec.Command(l.file("bin", "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+l.kubeconfig())
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// net is the range that the running cluster has.
func (l testLab) net(t *testing.T) plan.Cluster {
	t.Helper()
	c, err := l.client()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		p, err := plan.New(l.cluster, slash16(r.Dst.String()), l.nodes)
		if err == nil && p.Server() == c.server {
			return p
		}
	}
	t.Fatalf("no route to %s", c.server)
	return plan.Cluster{}
}

// pushEcho makes the image of testdata/echo and pushes it to the mirror.
func pushEcho(t *testing.T, mirror string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "echo")
	build(t, program, "./testdata/echo")
	layer, err := oci.Layer([]oci.Entry{{Path: "/echo", Mode: 0o755, Source: program}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := oci.Image(oci.Spec{Layers: []v1.Layer{layer}, Entrypoint: []string{"/echo"}})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(mirror+"/lab/echo:latest", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// eventually asks until the answer is right.
func eventually(t *testing.T, what string, right func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !right() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// hostState is all of the host that a cluster might change, as lines. Lines of
// other clusters are left out: somebody may be using them.
func hostState(t *testing.T, cluster string) string {
	t.Helper()
	var lines []string
	add := func(what string, all []string) {
		for _, l := range all {
			if !strings.Contains(l, "gl-") || strings.Contains(l, plan.HostName(cluster)) {
				lines = append(lines, what+" "+l)
			}
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		add("link", []string{l.Attrs().Name})
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		add("route", []string{fmt.Sprintf("%v dev %s", r, names[r.LinkIndex])})
	}
	for _, file := range []string{
		"/proc/self/mounts", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom",
		"/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops", "/proc/sys/kernel/keys/root_maxkeys", "/proc/sys/kernel/hostname",
		"/proc/sys/net/netfilter/nf_conntrack_max", "/proc/sys/net/bridge/bridge-nf-call-iptables",
	} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // this kernel has none
		}
		add(file, strings.Split(string(b), "\n"))
	}
	for _, pattern := range []string{
		"/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*", "/var/lib/*", "/var/log/*", "/run/*", "/opt/*", "/etc/*", "/usr/libexec/*",
	} {
		found, _ := filepath.Glob(pattern)
		add("file", found)
	}
	rules, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	add("nft", strings.Split(string(rules), "\n"))
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// expectNothingLeft says what a cluster that is down has left.
func (l testLab) expectNothingLeft(t *testing.T) {
	t.Helper()
	found, err := host.Find(l.cluster)
	if err != nil || !found.Empty() {
		t.Errorf("left: %+v, %v", found, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if b, _ := os.ReadFile(p); bytes.Contains(b, []byte(l.state()+"/")) {
			t.Errorf("left: process %s %q", p, b)
		}
	}
	for _, file := range []string{l.state(), l.kubeconfig(), l.file("sa.key")} {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("left: %s", file)
		}
	}
}
