// Package host is what a cluster leaves on the host: the first processes of its
// nodes, a bridge with an interface for each node, routes, a cgroup folder in
// each hierarchy. It finds them by names that follow from the cluster's name and
// never by a record alone, so that a cluster is found and removed whatever
// happened to the program that made it.
//
// It refuses to touch what only looks like a cluster's: a process must be the
// first of a pid namespace below ours and carry the lab's marker, and is
// signalled by a handle that a reused pid cannot fool. It never changes the
// host's firewall or settings. Start reading at [Find] and [Remove].
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/node"
)

// Node is the first process of a node that runs.
type Node struct {
	PID    int
	Start  uint64 // in the kernel's ticks since boot: with the pid, it names a process for good
	N      int
	Config string // the file that it was started with
}

// Nodes returns the running nodes of a cluster, by number.
func Nodes(cluster string) ([]Node, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var nodes []Node
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if n, ok := lookup(pid, cluster); ok {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int { return a.N - b.N })
	return nodes, nil
}

// lookup reads who a process is. One that ends meanwhile is nobody.
func lookup(pid int, cluster string) (Node, bool) {
	read := func(file string) []byte {
		b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
		return b
	}
	n, ok := parseCmdline(read("cmdline"), cluster)
	if !ok || !firstOfNamespace(string(read("status"))) {
		return Node{}, false
	}
	start, state, ok := parseStat(string(read("stat")))
	if !ok || state == "Z" || state == "X" {
		return Node{}, false
	}
	n.PID, n.Start = pid, start
	return n, true
}

// parseCmdline recognises the arguments that node.Start gives.
func parseCmdline(b []byte, cluster string) (Node, bool) {
	args := bytes.Split(bytes.TrimSuffix(b, []byte{0}), []byte{0})
	if len(args) != 4 || string(args[0]) != node.Marker || string(args[1]) != cluster {
		return Node{}, false
	}
	n, err := strconv.Atoi(string(args[2]))
	if err != nil || n < 1 {
		return Node{}, false
	}
	return Node{N: n, Config: string(args[3])}, true
}

// firstOfNamespace reports whether the text of a status file is that of process
// 1 of a pid namespace below the reader's.
func firstOfNamespace(status string) bool {
	for line := range strings.Lines(status) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(ids)
			return len(f) > 1 && f[len(f)-1] == "1"
		}
	}
	return false
}

// parseStat takes the state and the start time from the text of a stat file. The
// name, second, is in parentheses and may hold any character.
func parseStat(stat string) (start uint64, state string, ok bool) {
	_, rest, ok := cutLast(stat, ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, "", false
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	return start, f[0], err == nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// kill ends a node with all its processes, and returns when the last is gone.
func kill(ctx context.Context, cluster string, n Node) error {
	p, err := os.FindProcess(n.PID) // from here on a handle, where the kernel has them
	if err != nil {
		return fmt.Errorf("node %d: %w", n.N, err)
	}
	defer func() { _ = p.Release() }()
	if now, ok := lookup(n.PID, cluster); !ok || now != n {
		return nil // it ended by itself; the pid is somebody else's or nobody's
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("node %d: %w", n.N, err)
	}
	// The kernel lets the first process of a namespace end after all others. Its
	// arguments vanish earlier, so only the start time counts now.
	for {
		stat, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(n.PID), "stat"))
		if start, state, ok := parseStat(string(stat)); !ok || start != n.Start || state == "Z" || state == "X" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %d, process %d: still there: %w", n.N, n.PID, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
