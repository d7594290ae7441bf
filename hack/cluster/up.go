//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/host"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/node"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/pki"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/settings"
)

// upTimeout is how long a cluster may take until it is ready, on a machine that
// is busy with other things. An idle one needs less than ten seconds.
const upTimeout = 3 * time.Minute

// up starts the cluster, unless it is up. What it started before it fails or is
// interrupted, it removes; when it is killed, the next up or down does.
func (l *lab) up(ctx context.Context) error {
	if err := supported(); err != nil {
		return err
	}
	if err := l.deps(ctx); err != nil {
		return err
	}
	built, err := l.builder().Build(ctx)
	if err != nil {
		return err
	}
	unlock, err := l.lock(l.file("lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if up, err := l.isUp(ctx); err != nil || up {
		return err
	}
	if err := l.clean(ctx); err != nil {
		return fmt.Errorf("what is left of an earlier cluster: %w", err)
	}
	if err := l.bringUp(ctx, built); err != nil {
		// ctx may be what failed.
		return errors.Join(err, l.clean(context.WithoutCancel(ctx)))
	}
	l.hint()
	return nil
}

// isUp reports whether the cluster runs as it was asked for, and says so. It is
// an error if it runs in a way that must not be cleaned away.
func (l *lab) isUp(ctx context.Context) (bool, error) {
	found, err := host.Find(l.cluster)
	if err != nil {
		return false, err
	}
	if err := l.ours(found); err != nil {
		return false, err
	}
	b, err := os.ReadFile(l.complete())
	if err != nil || len(found.Nodes) == 0 {
		return false, nil //nolint:nilerr // it never came up whole
	}
	if nodes := string(b); nodes != strconv.Itoa(len(found.Nodes)) {
		l.say("cluster %q lost a node (%d of %s run): starting anew", l.cluster, len(found.Nodes), nodes)
		return false, nil
	}
	if len(found.Nodes) != l.nodes {
		return false, fmt.Errorf("cluster %q is up with %d node(s); make down ends it", l.cluster, len(found.Nodes))
	}
	if err := l.ask(ctx, node.StartAPIServer); err != nil { // a test may have stopped it
		l.say("cluster %q does not answer (%v): starting anew", l.cluster, err)
		return false, nil
	}
	l.say("cluster %q is up already", l.cluster)
	l.hint()
	return true, nil
}

// ours refuses what another working copy runs under the same name.
func (l *lab) ours(found host.Remnant) error {
	if file := found.Elsewhere(l.dir()); file != "" {
		return fmt.Errorf("cluster %q belongs to another working copy (%s): choose another name, CLUSTER=…", l.cluster, file)
	}
	return nil
}

func (l *lab) hint() {
	fmt.Fprintf(l.stdout, "\n  export KUBECONFIG=%s\n  export PATH=%s:$PATH\n  kubectl get pods -A\n\n", l.kubeconfig(), l.file("bin"))
}

func (l *lab) bringUp(ctx context.Context, built settings.Parts) error {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	p, err := l.claim()
	if err != nil {
		return err
	}
	l.say("cluster %q: %d node(s), addresses in %v", l.cluster, p.Nodes(), p.Net())
	if err := l.writeFiles(p, built); err != nil {
		return err
	}
	for n := 1; n <= p.Nodes(); n++ {
		if err := l.startNode(p, n, built); err != nil {
			return err
		}
	}
	l.say("nodes started")

	c, err := l.client()
	if err != nil {
		return err
	}
	if err := l.alive(ctx, func(ctx context.Context) error { return c.await(ctx, "the API server", c.ready) }); err != nil {
		return err
	}
	l.say("API server ready")
	if err := l.applyCoreDNS(ctx, p, built); err != nil {
		return err
	}
	if err := l.alive(ctx, func(ctx context.Context) error {
		return c.await(ctx, "the nodes", func(ctx context.Context) error { return c.nodesReady(ctx, p.Nodes()) })
	}); err != nil {
		return err
	}
	l.say("nodes ready")
	if err := l.alive(ctx, func(ctx context.Context) error { return c.await(ctx, "CoreDNS", c.coreDNSReady) }); err != nil {
		return err
	}
	l.say("CoreDNS ready")
	return os.WriteFile(l.complete(), []byte(strconv.Itoa(p.Nodes())), 0o600)
}

// claim chooses the cluster's addresses and takes them by making its bridge.
// No other up of this user may choose in between.
func (l *lab) claim() (plan.Cluster, error) {
	unlock, err := l.lock(l.cached("cluster.lock"))
	if err != nil {
		return plan.Cluster{}, err
	}
	defer unlock()
	taken, err := host.Taken()
	if err != nil {
		return plan.Cluster{}, err
	}
	net, err := plan.Pick(l.cluster, taken)
	if err != nil {
		return plan.Cluster{}, err
	}
	p, err := plan.New(l.cluster, net, l.nodes)
	if err != nil {
		return plan.Cluster{}, err
	}
	return p, host.AddBridge(p)
}

func (l *lab) writeFiles(p plan.Cluster, built settings.Parts) error {
	c := pki.Cluster{
		Name:   l.cluster,
		Server: p.Server(),
		Addrs:  []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.NodeAddr(1).Addr(), p.APIService()},
	}
	for n := 1; n <= p.Nodes(); n++ {
		c.Nodes = append(c.Nodes, pki.Node{Name: p.Node(n), Addr: p.NodeAddr(n).Addr()})
	}
	if err := l.pki().Write(c, time.Now()); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	for _, dir := range []string{l.logs(), l.file("bin")} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Symlink(built.Kubernetes, l.file("bin", "kubectl")),
		copyFile(l.pki().Kubeconfig(pki.Admin), l.kubeconfig()),
		copyFile(l.pki().ServiceAccountKey(), l.file("sa.key")),
	)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

func (l *lab) startNode(p plan.Cluster, n int, built settings.Parts) error {
	cfg := node.Config{
		Cluster: p.Name(), Net: p.Net(), Nodes: p.Nodes(), N: n,
		PKI: l.pki(), Dir: l.state(p.Node(n)), Logs: l.logs(), Parts: built,
		Layouts: []string{l.cached("images", "layout")},
		Keep:    []string{l.root, l.cached()},
		Path:    l.path + ":/usr/sbin:/usr/bin:/sbin:/bin", // su leaves some without nft
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(cfg.Dir, "node.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	s, err := node.Start(l.cluster, n, file, l.nodeLog(n))
	if err != nil {
		return err
	}
	if err := host.Wire(p, n, s.PID); err != nil {
		return errors.Join(err, s.Abandon())
	}
	return s.Go()
}

func (l *lab) nodeLog(n int) string { return filepath.Join(l.logs(), fmt.Sprintf("node%d.log", n)) }

// alive waits for something, but not once a node has ended.
func (l *lab) alive(ctx context.Context, wait func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for ctx.Err() == nil {
			if nodes, err := host.Nodes(l.cluster); err == nil && len(nodes) < l.nodes {
				cancel(l.deadNode(nodes))
			}
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
	err := wait(ctx)
	cancel(nil)
	<-watched
	return err
}

// deadNode says what the first node that is not among those alive said last.
func (l *lab) deadNode(alive []host.Node) error {
	n := 1
	for _, a := range alive {
		if a.N == n {
			n++
		}
	}
	b, _ := os.ReadFile(l.nodeLog(n))
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return fmt.Errorf("node %d ended: %s", n, lines[len(lines)-1])
}

func (l *lab) applyCoreDNS(ctx context.Context, p plan.Cluster, built settings.Parts) error {
	manifest, err := settings.CoreDNS(p)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, built.Kubernetes, "kubectl", "--kubeconfig="+l.kubeconfig(), "apply", "--validate=false", "-f", "-")
	cmd.Stdin = bytes.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("CoreDNS: %w: %s", err, out)
	}
	return nil
}
