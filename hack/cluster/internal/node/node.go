// Package node is one node of a cluster: the first process of a set of new
// mount, network, pid, uts and ipc namespaces, and what it starts there. When
// that process ends, however it ends, the kernel ends all others and drops the
// mounts and interfaces; so nothing here cleans up.
//
// The host side is [Start]; inside, [Run] prepares the namespaces and starts the
// programs; [Ask] lets the host talk to it. It refuses to run outside of
// namespaces of its own. Start reading at [Run].
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/cgroup"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/pki"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/settings"
)

// Config is what the host tells a node, in a file that its arguments name.
type Config struct {
	Cluster string         `json:"cluster"`
	Net     netip.Prefix   `json:"net"`
	Nodes   int            `json:"nodes"`
	N       int            `json:"n"` // which of them, from 1
	PKI     pki.Dir        `json:"pki"`
	Dir     string         `json:"dir"`  // this node's data on disk
	Logs    string         `json:"logs"` // one file for each program of each node, and the audit log
	Parts   settings.Parts `json:"parts"`
	Layouts []string       `json:"layouts"` // images that the mirror of node 1 serves
	Keep    []string       `json:"keep"`    // folders of the host that must stay in sight
	Path    string         `json:"path"`    // where programs look for others
}

func readConfig(path string) (Config, settings.Node, error) {
	var c Config
	b, err := os.ReadFile(path)
	if err != nil {
		return c, settings.Node{}, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, settings.Node{}, fmt.Errorf("%s: %w", path, err)
	}
	p, err := plan.New(c.Cluster, c.Net, c.Nodes)
	if err != nil {
		return c, settings.Node{}, err
	}
	return c, settings.Node{Cluster: p, N: c.N, PKI: c.PKI, Dir: c.Dir, Logs: c.Logs, Parts: c.Parts}, nil
}

// Run is the node's first process. It waits until the host has wired it up,
// prepares what is its own, starts the programs and keeps them running until
// it is killed. Arguments are those that [Start] gives.
func Run(ctx context.Context, args []string, log *slog.Logger) error {
	if os.Getpid() != 1 {
		return errors.New("not the first process of a pid namespace: only `up` starts a node")
	}
	path, err := parseArgs(args)
	if err != nil {
		return err
	}
	cfg, set, err := readConfig(path)
	if err != nil {
		return err
	}
	if err := awaitHost(); err != nil {
		return err
	}
	if err := prepare(cfg, set); err != nil {
		return err
	}
	log.InfoContext(ctx, "prepared", "cluster", cfg.Cluster, "node", cfg.N)

	s := &supervisor{log: log, logs: filepath.Join(cfg.Logs, set.Cluster.Node(cfg.N)+"-")}
	reaped := make(chan struct{})
	go func() { defer close(reaped); s.reap(ctx) }()
	err = serve(ctx, cfg, set, s, log)
	<-reaped
	return err
}

// awaitHost waits for the end of the pipe that the host gave as descriptor 3:
// after a byte the node has its interface, without one the host has died.
func awaitHost() error {
	pipe := os.NewFile(3, "host")
	defer func() { _ = pipe.Close() }()
	b, err := io.ReadAll(pipe)
	if err == nil && len(b) == 0 {
		err = errors.New("the host went away before the node was wired up")
	}
	return err
}

func prepare(cfg Config, set settings.Node) error {
	if err := mounts(cfg.Keep); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	if err := checkOverlay(cfg.Dir); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(set.Cluster.Node(cfg.N))); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := cgroup.Make(set.Cluster.Cgroup(cfg.N), "system"); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := network(set.Cluster, cfg.N); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	files, err := set.Files()
	if err != nil {
		return err
	}
	for file, b := range files {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return err
		}
	}
	for _, dir := range []string{"etcd", "kubelet", "containerd", "volume-plugins"} {
		if err := os.MkdirAll(set.Data(dir), 0o700); err != nil {
			return err
		}
	}
	return nil
}
