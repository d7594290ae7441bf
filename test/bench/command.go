package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// readyGoal is how long the command may take from its start to the first review that
// it answers, in ms.
const readyGoal = 1000

// startTimeout bounds the wait for a command that never becomes ready.
const startTimeout = 30 * time.Second

// command measures the injector as a cluster runs it, beside an API server that
// already has its Secret: how long it takes to become ready and to answer the first
// review, again and again; its memory with many clients; how long the API server waits
// for it, beside the typed floor.
func (b bench) command(ctx context.Context) (err error) {
	kubeconfig, stop, err := startAPIServer(ctx, b.plan.lab, filepath.Join(b.dir, "apiserver"))
	if err != nil {
		return err
	}
	defer stop()
	client, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	host := mesh.InjectorService + "." + mesh.SystemNamespace + ".svc"
	certPEM, keyPEM, err := newPair(time.Now(), host)
	if err != nil {
		return err
	}
	if err := furnish(ctx, client, certPEM, keyPEM); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(certPEM))
	c := injectorCommand{
		dir: b.dir, kubeconfig: kubeconfig, path: filepath.Join(b.dir, "injector"), root: certPEM,
		trust: &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS13},
	}
	if err := c.build(ctx); err != nil {
		return err
	}
	mix, err := reviews()
	if err != nil {
		return err
	}
	var ready, first []float64 // ms
	for n := range b.plan.starts {
		s, err := c.start(ctx)
		if err != nil {
			return err
		}
		took, err := s.watch(ctx, mix[0])
		if err == nil && n == b.plan.starts-1 {
			err = errors.Join(b.commandUnderLoad(ctx, s.server, mix), b.asked(ctx, client, s.server))
		}
		if err = errors.Join(err, s.kill()); err != nil {
			return fmt.Errorf("%w: %s", err, s.said())
		}
		ready, first = append(ready, took.ready.Seconds()*1000), append(first, took.first.Seconds()*1000)
	}
	b.report(
		figure{name: "command.ready", values: ready, unit: "ms"},
		figure{name: "command.first-review", values: first, unit: "ms", goal: readyGoal},
	)
	return nil
}

func (b bench) commandUnderLoad(ctx context.Context, s *server, mix []review) error {
	idle, err := s.usage()
	if err != nil {
		return err
	}
	b.report(figure{name: "command.idle.rss", values: []float64{float64(idle.rss) / (1 << 20)}, unit: "MiB", goal: rssGoal})
	contenders, done := webhooks([]*server{s}, mix, crowdClients)
	defer done()
	samples, err := rounds(ctx, b.plan.podRepeats, load{crowdClients, b.plan.window, limit}, contenders...)
	if err != nil {
		return err
	}
	b.report(standard("command.crowd", samples[s.role], hopes{rss: rssGoal})...)
	return nil
}

// injectorCommand is cmd/injector, and what it is told.
type injectorCommand struct {
	dir, path, kubeconfig string
	root                  string // PEM of what its certificate is checked with
	trust                 *tls.Config
}

// build builds the command, and writes its file of settings.
func (c injectorCommand) build(ctx context.Context) error {
	if _, err := exec.LookPath("go"); err != nil {
		return missing(fmt.Sprintf("the go command, to build the injector with: %v", err))
	}
	out, err := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", c.path,
		"github.com/garrison-mesh/garrison/cmd/injector").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return os.WriteFile(c.settings(), []byte("image: garrison/proxy:bench\n"), 0o600)
}

func (c injectorCommand) settings() string { return filepath.Join(c.dir, "injector.yaml") }

// started is a running command.
type started struct {
	*server
	admin string
	begin time.Time
}

func (c injectorCommand) start(ctx context.Context) (*started, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	s := &started{admin: admin, server: &server{role: "command", addr: addr, root: c.root, trust: c.trust, log: filepath.Join(c.dir, "command.log")}}
	s.cmd = exec.Command(c.path, "--settings="+c.settings(), "--kubeconfig="+c.kubeconfig, "--listen="+addr, "--admin="+admin)
	s.cmd.Env = append(os.Environ(), "GOMEMLIMIT=450MiB") // as in its manifest
	file, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	s.cmd.Stderr = file
	s.begin = time.Now()
	return s, s.cmd.Start()
}

// kill ends the command at once: its orderly end, which others measure, waits for
// API servers that have not yet heard of it.
func (s *started) kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	var killed *exec.ExitError
	if err := s.cmd.Wait(); !errors.As(err, &killed) {
		return err
	}
	return nil
}

// took is the time since the start of a command.
type took struct{ ready, first time.Duration }

// watch waits until the command says that it is ready, and then for the answer to a
// review, as the API server would.
func (s *started) watch(ctx context.Context, r review) (took, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	var t took
	var err error
	if t.ready, err = s.until(ctx, s.ready); err != nil {
		return t, err
	}
	w := newWebhook(s.server, nil, 1)
	defer w.client.CloseIdleConnections()
	t.first, err = s.until(ctx, func(ctx context.Context) error {
		_, err := w.patch(ctx, r)
		return err
	})
	return t, err
}

func (s *started) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(said))
	}
	return err
}

// until asks every few milliseconds, and returns the time from the start to the first
// answer without an error.
func (s *started) until(ctx context.Context, ask func(context.Context) error) (time.Duration, error) {
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return time.Since(s.begin), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-again.C:
		}
	}
}
