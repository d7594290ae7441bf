package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	restartDelay = time.Second
	stopGrace    = 10 * time.Second
)

// program is something that a node keeps running.
type program struct {
	name       string
	argv       []string
	argv0      string // the file to run, where argv[0] is not it
	env        []string
	cloneflags uintptr
}

// supervisor starts programs and waits for all processes of the node. As their
// first process it inherits orphans too, so there must be one waiter only, and
// os/exec, which waits for its own, cannot be used.
type supervisor struct {
	log  *slog.Logger
	logs string // the start of every log file's path

	mu      sync.Mutex // held from fork until the pid is known, so that no end is missed
	running map[int]chan struct{}
}

// reap waits for every process that ends, until ctx does.
func (s *supervisor) reap(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for s.reapOne() { // first, since one may have ended before we listened
		}
		select {
		case <-ctx.Done():
			return
		case <-ended:
		}
	}
}

func (s *supervisor) reapOne() bool {
	var status syscall.WaitStatus
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err == syscall.EINTR {
		return true
	}
	if pid <= 0 {
		return false
	}
	if done := s.running[pid]; done != nil {
		close(done)
		delete(s.running, pid)
	}
	return true
}

// start starts a program; its output goes to a log file of its name.
func (s *supervisor) start(p program) (pid int, done <-chan struct{}, err error) {
	out, err := os.OpenFile(s.logs+p.name+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = out.Close() }()
	file := p.argv0
	if file == "" {
		file = p.argv[0]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err = syscall.ForkExec(file, p.argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   p.env,
		Files: []uintptr{0, out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: p.cloneflags},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", p.name, err)
	}
	ended := make(chan struct{})
	if s.running == nil {
		s.running = map[int]chan struct{}{}
	}
	s.running[pid] = ended
	return pid, ended, nil
}

// keep runs a program until ctx ends, and again whenever it ends before.
func (s *supervisor) keep(ctx context.Context, p program) {
	for ctx.Err() == nil {
		pid, done, err := s.start(p)
		if err != nil {
			s.log.ErrorContext(ctx, "not started", "program", p.name, "err", err)
		} else {
			s.log.InfoContext(ctx, "started", "program", p.name, "pid", pid)
			select {
			case <-done:
				s.log.WarnContext(ctx, "ended by itself", "program", p.name, "pid", pid)
			case <-ctx.Done():
				s.stop(p, pid, done)
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartDelay):
		}
	}
}

// stop ends a program, in the end by force. Until the supervisor has waited for
// it, its pid is nobody else's.
func (s *supervisor) stop(p program, pid int, done <-chan struct{}) {
	s.signal(pid, syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(stopGrace):
		s.signal(pid, syscall.SIGKILL)
		<-done
	}
	s.log.Info("stopped", "program", p.name, "pid", pid)
}

func (s *supervisor) signal(pid int, sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[pid] != nil {
		_ = syscall.Kill(pid, sig)
	}
}
