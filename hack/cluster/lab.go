//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/host"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/node"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/parts"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/pki"
)

// lab is one cluster of one working copy: where its files are, and how it tells
// what it does.
type lab struct {
	options
	root   string // of the working copy
	stdout io.Writer
	start  time.Time
}

func newLab(o options, stdout io.Writer) (*lab, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(root+o.cache, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\:`, r) }) {
		return nil, fmt.Errorf("%s, %s: configuration files cannot hold such a path", root, o.cache)
	}
	return &lab{options: o, root: root, stdout: stdout, start: time.Now()}, nil
}

// findRoot looks for the working copy that the current folder is in.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "hack", "cluster", "parts")); err == nil {
			return filepath.EvalSymlinks(at)
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not in a working copy of Garrison", dir)
		}
	}
}

// The files of a cluster. Those in state are wiped with it.
func (l *lab) dir() string { return filepath.Join(l.root, "build", l.cluster) }
func (l *lab) file(elem ...string) string {
	return filepath.Join(append([]string{l.dir()}, elem...)...)
}
func (l *lab) state(elem ...string) string { return l.file(append([]string{"state"}, elem...)...) }
func (l *lab) kubeconfig() string          { return l.file("kubeconfig") }
func (l *lab) logs() string                { return l.file("logs") }
func (l *lab) pki() pki.Dir                { return pki.Dir(l.state("pki")) }
func (l *lab) complete() string            { return l.state("complete") } // made when all is up
func (l *lab) cached(elem ...string) string {
	return filepath.Join(append([]string{l.cache, "garrison"}, elem...)...)
}
func (l *lab) say(format string, a ...any) {
	fmt.Fprintf(l.stdout, "%6.1f s  %s\n", time.Since(l.start).Seconds(), fmt.Sprintf(format, a...))
}
func (l *lab) Write(line []byte) (int, error) {
	l.say("%s", strings.TrimSpace(string(line)))
	return len(line), nil
}
func (l *lab) builder() parts.Builder {
	return parts.Builder{
		Source: filepath.Join(l.root, "hack", "cluster", "parts"),
		Cache:  l.cached("parts"),
		Go:     filepath.Join(l.root, "hack", "go"),
		Log:    l,
	}
}

// deps installs what the parts need to build and to run.
func (l *lab) deps(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(l.root, "hack", "deps"))
	cmd.Stdout, cmd.Stderr = l.stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("packages: %w", err)
	}
	return nil
}

func (l *lab) build(ctx context.Context) error {
	if err := l.deps(ctx); err != nil {
		return err
	}
	_, err := l.builder().Build(ctx)
	return err
}

// ask has the running cluster do something.
func (l *lab) ask(ctx context.Context, request string) error {
	nodes, err := host.Nodes(l.cluster)
	if err != nil {
		return err
	}
	if len(nodes) == 0 || nodes[0].N != 1 {
		return fmt.Errorf("cluster %q is not up", l.cluster)
	}
	if err := node.Ask(ctx, nodes[0].PID, request); err != nil {
		return err
	}
	if request != node.StartAPIServer {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	c, err := l.client()
	if err != nil {
		return err
	}
	return c.await(ctx, "the API server", c.ready)
}

// supported says why a cluster cannot run here, and what can be done instead.
func supported() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root, for namespaces, mounts and a bridge.\n" + ownCluster)
	}
	return nil
}

// lock keeps others from doing something at the same time: with this cluster, or
// with all. The kernel drops it with the process, however that ends.
func (l *lab) lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
		l.say("waiting for another `cluster` command (%s)", path)
		if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return func() { _ = f.Close() }, nil
}
