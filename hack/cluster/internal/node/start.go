package node

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// Marker is the name, argument zero, of a node's first process. The arguments
// after it are the cluster's name, the node's number and the file of its
// [Config]; by these the host finds nodes that it has no record of.
const Marker = "garrison-lab-node"

// Starting is a node that waits to be wired up.
type Starting struct {
	PID     int // as the host numbers it
	process *os.Process
	pipe    *os.File
}

// Start starts this very program as the first process of a node that outlives
// its starter, but not before [Starting.Go].
func Start(cluster string, n int, config, log string) (*Starting, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	p, err := os.StartProcess("/proc/self/exe", []string{Marker, cluster, strconv.Itoa(n), config}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{null, out, out, r},
		Sys: &syscall.SysProcAttr{
			Setsid: true,
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID |
				syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		},
	})
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("node %d: %w", n, err)
	}
	return &Starting{PID: p.Pid, process: p, pipe: w}, nil
}

// Go tells the node that its interface is there.
func (s *Starting) Go() error {
	defer func() { _ = s.pipe.Close() }()
	_, err := s.pipe.Write([]byte{1})
	return err
}

// Abandon ends a node that was not wired up.
func (s *Starting) Abandon() error {
	err := s.pipe.Close()
	_, wait := s.process.Wait()
	return errors.Join(err, wait)
}

func parseArgs(args []string) (config string, err error) {
	if len(args) != 4 {
		return "", fmt.Errorf("arguments %q: want the cluster, the number and the file", args)
	}
	return args[3], nil
}
