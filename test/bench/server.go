package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// server is this program serving one role in another process.
type server struct {
	role  string
	addr  string
	root  string // PEM of what its certificate is checked with
	trust *tls.Config
	cmd   *exec.Cmd
	stdin io.WriteCloser // closed, it tells the process to end
	log   string         // file that it logs to
}

// startServer starts a process that serves role, and returns when it takes
// connections. Its log goes to a file in dir, and its CPU profile, where
// profile is set, to role.pprof in that folder.
func startServer(ctx context.Context, role, dir, profile string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"serve", role}
	if profile != "" {
		args = append(args, filepath.Join(profile, role+".pprof"))
	}
	s := &server{role: role, cmd: exec.Command(self, args...), log: filepath.Join(dir, role+".log")}
	// A real file, so that what the server logs costs it what it costs in a cluster.
	file, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	s.cmd.Stderr = file
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := s.greet(ctx, out); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", role, err), s.stop())
	}
	return s, nil
}

// greet learns where the process listens and waits until it does.
func (s *server) greet(ctx context.Context, out io.Reader) error {
	var hello greeting
	if err := json.NewDecoder(out).Decode(&hello); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(hello.Root)) {
		return errors.New("greeting: no certificate")
	}
	s.addr, s.root = hello.Addr, hello.Root
	s.trust = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := (&tls.Dialer{Config: s.trust}).DialContext(ctx, "tcp", s.addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-retry.C:
		}
	}
}

// stop ends the process and waits for it. What it logged last is in the error where
// it did not end well.
func (s *server) stop() error {
	_ = s.stdin.Close() // a process that has gone need not be told
	kill := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", s.role, err, s.said())
	}
	return nil
}

// said returns what the process logged last.
func (s *server) said() []byte {
	said, _ := os.ReadFile(s.log) // the better half of a message, where there is one
	return bytes.TrimSpace(said[max(0, len(said)-2000):])
}

func (s *server) usage() (usage, error) { return processUsage(s.cmd.Process.Pid) }

// sample is one window's worth of figures of one server.
type sample struct {
	outcome
	cpu float64 // ms per request, of the server's process
	rss int     // bytes, at the end
}

// measure runs the load against the server and takes its CPU time before and after.
func (s *server) measure(ctx context.Context, l load, do call) (sample, error) {
	before, err := s.usage()
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.role, err)
	}
	o, err := l.run(ctx, do)
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.role, err)
	}
	after, err := s.usage()
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.role, err)
	}
	if o.requests() == 0 || after.cpu == before.cpu {
		return sample{}, fmt.Errorf("%s: %d requests in %v CPU: window too short", s.role, o.requests(), after.cpu-before.cpu)
	}
	spent := (after.cpu - before.cpu).Seconds() * 1000
	return sample{outcome: o, cpu: spent / float64(o.requests()), rss: after.rss}, nil
}
