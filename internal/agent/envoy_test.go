package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script is an Envoy that does what a test says, once it has written "up".
func script(t *testing.T, body string) string {
	t.Helper()
	needTool(t, "sh")
	file := filepath.Join(t.TempDir(), "envoy")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// lines hands on what the process writes.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l <- strings.TrimSpace(line)
	}
	return len(p), nil
}

func (l lines) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-l:
		if got != want {
			t.Fatalf("envoy wrote %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("envoy did not write %q", want)
	}
}

func TestEnvoyEndsByItself(t *testing.T) {
	for body, want := range map[string]int{"exit 3": 3, "exit 0": 1, "kill -9 $$": 137} {
		err := Envoy{Path: script(t, body)}.Run(t.Context(), "x", discardLog())
		var end *ExitError
		if !errors.As(err, &end) || end.Code != want {
			t.Errorf("%s: %v, want exit code %d", body, err, want)
		}
	}
	if err := (Envoy{Path: "/nowhere/envoy"}).Run(t.Context(), "x", discardLog()); err == nil || !strings.Contains(err.Error(), "/nowhere/envoy") {
		t.Errorf("no binary: %v", err)
	}
}

func TestEnvoyIsCalled(t *testing.T) {
	out := make(lines, 10)
	t.Setenv("SECRET", "1")
	err := Envoy{Path: script(t, `echo "$@"; env | grep -v -e ^PWD -e ^SHLVL -e ^_=; exit 1`), Drain: 7 * time.Second, Output: out}.
		Run(t.Context(), "/etc/x.json", discardLog())
	if err == nil {
		t.Error("no error")
	}
	out.expect(t, "--config-path /etc/x.json --concurrency 2 --log-level warning --drain-time-s 7 --disable-hot-restart")
	if len(out) > 0 {
		t.Errorf("environment passed on: %s", <-out)
	}
}

// startEnvoy runs e until its context is cancelled; ended gives Run's result.
func startEnvoy(t *testing.T, e Envoy) (cancel func(), ended <-chan error) {
	t.Helper()
	if e.admin == "" {
		e.admin = "127.0.0.1:1" // nobody there
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx, "x", discardLog()) }()
	t.Cleanup(cancel)
	return cancel, done
}

func TestEnvoyGetsSignals(t *testing.T) {
	out, signals := make(lines, 10), make(chan os.Signal)
	stop, ended := startEnvoy(t, Envoy{Output: out, Signals: signals, Kill: enough, Path: script(t,
		`trap "echo usr1" USR1; trap "echo term; exit 0" TERM; echo up; while :; do sleep 0.05; done`)})
	out.expect(t, "up")
	signals <- syscall.SIGUSR1 // a shell under nohup could not trap HUP
	out.expect(t, "usr1")
	stop()
	out.expect(t, "term")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEnvoyThatWillNotEndIsKilled(t *testing.T) {
	out := make(lines, 10)
	// Nothing that it has to do after the signal: on a busy machine it might not get to it.
	stop, ended := startEnvoy(t, Envoy{Output: out, Kill: 100 * time.Millisecond,
		Path: script(t, `trap "" TERM; echo up; exec sleep 600`)})
	out.expect(t, "up")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEnvoyDrainsUntilNoConnectionIsLeft(t *testing.T) {
	out := make(lines, 10)
	var calls []string
	const in, out15001 = "listener.0.0.0.0_15006.downstream_cx_active: ", "listener.0.0.0.0_15001.downstream_cx_active: "
	left := []string{in + "0\n" + out15001 + "2\n", in + "1\n" + out15001 + "0\n", in + "0\n" + out15001 + "0\n"}
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls = append(calls, r.Method+" "+r.URL.Path)
		if r.URL.Path == "/stats" {
			w.Write([]byte(left[0]))
			left = left[1:]
		}
	}))
	defer admin.Close()
	stop, ended := startEnvoy(t, Envoy{Output: out, Drain: enough, Kill: enough, admin: strings.TrimPrefix(admin.URL, "http://"),
		Path: script(t, `trap "echo term; exit 0" TERM; echo up; while :; do sleep 0.05; done`)})
	out.expect(t, "up")
	stop()
	out.expect(t, "term")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := strings.Join(calls, ", "); got != "POST /drain_listeners, GET /stats, GET /stats, GET /stats" {
		t.Errorf("admin was asked: %s", got)
	}
}
