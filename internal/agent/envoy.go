package agent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Envoy is the proxy's process. It is started once: when it dies unasked, so does
// the agent, and the kubelet starts both again.
type Envoy struct {
	Path        string        // "": /usr/local/bin/envoy
	Concurrency int           // worker threads. 0: 2
	LogLevel    string        // "": warning
	Drain       time.Duration // how long connections may take to end once told to stop. 0: 5 s
	Kill        time.Duration // how long the process may take to end after that. 0: 5 s
	Output      io.Writer     // gets its standard output and error. nil: discarded

	// Signals are passed on to the process as they come, but for those that end
	// the agent, which end Envoy gracefully by way of Run's context.
	Signals <-chan os.Signal

	admin string // host:port, set by tests
}

// ExitError is the end of an Envoy that was not told to end.
type ExitError struct {
	Code int // what the agent should exit with: never 0; 128 and the number for a signal

	state *os.ProcessState
}

func (e *ExitError) Error() string { return "envoy ended by itself: " + e.state.String() }

// Run starts Envoy with a bootstrap file, and waits for it. When ctx ends it lets
// connections end, then ends the process, and returns nil.
func (e Envoy) Run(ctx context.Context, bootstrapFile string, log *slog.Logger) error {
	drain := cmp.Or(e.Drain, 5*time.Second)
	cmd := exec.Command(cmp.Or(e.Path, "/usr/local/bin/envoy"), // without a context: it is ended step by step, below
		"--config-path", bootstrapFile,
		"--concurrency", strconv.Itoa(cmp.Or(e.Concurrency, 2)),
		"--log-level", cmp.Or(e.LogLevel, "warning"),
		"--drain-time-s", strconv.Itoa(int(drain.Round(time.Second)/time.Second)),
		"--disable-hot-restart")
	cmd.Env = []string{} // nothing of ours is its business
	cmd.Stdout, cmd.Stderr = e.Output, e.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for the agent to handle
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("envoy: %w", err)
	}
	log.InfoContext(ctx, "envoy started", "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // owned here: read below on every path
	for {
		select {
		case err := <-ended:
			return unasked(cmd.ProcessState, err)
		case s := <-e.Signals:
			// An error means that it has just ended, which the next round sees.
			_ = cmd.Process.Signal(s)
		case <-ctx.Done():
			e.stop(context.WithoutCancel(ctx), cmd.Process, ended, drain)
			log.InfoContext(ctx, "envoy stopped", "status", cmd.ProcessState.String())
			return nil
		}
	}
}

// stop ends the process: it stops accepting, waits until no connection is left or
// drain is over, then asks it to end and at last makes it.
func (e Envoy) stop(ctx context.Context, p *os.Process, ended <-chan error, drain time.Duration) {
	if e.drain(ctx, ended, drain) {
		return
	}
	// Errors of Signal and Kill mean that it has ended by itself.
	_ = p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(cmp.Or(e.Kill, 5*time.Second))
	defer timer.Stop()
	select {
	case <-ended: //nolint:errcheck // it ended because we said so
	case <-timer.C:
		_ = p.Kill()
		<-ended //nolint:errcheck // it ended because we said so
	}
}

// drain reports whether the process ended meanwhile.
func (e Envoy) drain(ctx context.Context, ended <-chan error, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Without an answer there is nothing to wait for: it is starting or stuck.
	if _, err := e.ask(ctx, http.MethodPost, "/drain_listeners?graceful"); err != nil {
		return false
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if n, err := e.connections(ctx); err != nil || n == 0 {
			return false
		}
		select {
		case <-ended: //nolint:errcheck // it ended because we said so
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// connections returns the number of captured connections under way. Envoy's sum
// over all listeners, server.total_connections, lags by seconds.
func (e Envoy) connections(ctx context.Context) (int, error) {
	text, err := e.ask(ctx, http.MethodGet, fmt.Sprintf(
		`/stats?filter=^listener\.0\.0\.0\.0_(%d|%d)\.downstream_cx_active$`, mesh.InboundPort, mesh.OutboundPort))
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(text) {
		_, number, _ := strings.Cut(line, ":")
		n, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil {
			return 0, fmt.Errorf("envoy: stats: %w", err)
		}
		sum += n
	}
	return sum, nil
}

// live reports whether Envoy has started and is not ending.
func (e Envoy) live(ctx context.Context) bool {
	_, err := e.ask(ctx, http.MethodGet, "/ready")
	return err == nil
}

func (e Envoy) adminAddress() string {
	return cmp.Or(e.admin, net.JoinHostPort("127.0.0.1", strconv.Itoa(mesh.EnvoyAdminPort)))
}

// ask calls Envoy's admin interface; another answer than 200 is an error.
func (e Envoy) ask(ctx context.Context, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.adminAddress()+path, http.NoBody)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // once in a while
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("envoy: %s: %s", path, resp.Status)
	}
	return string(text), nil
}

func unasked(state *os.ProcessState, err error) error {
	if state == nil { // it could not even be waited for
		return fmt.Errorf("envoy: %w", err)
	}
	code := cmp.Or(state.ExitCode(), 1) // an end unasked is no success
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return &ExitError{Code: code, state: state}
}
