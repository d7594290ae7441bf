package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestReadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.json")
	c := Config{Cluster: "demo", Net: netip.MustParsePrefix("10.203.0.0/16"), Nodes: 2, N: 2, Dir: "/d", Keep: []string{"/k"}}
	write := func(c Config) {
		t.Helper()
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(c)
	got, set, err := readConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.Keep[0] != "/k" || set.N != 2 || set.Dir != "/d" || set.Cluster.NodeAddr(2).String() != "10.203.0.3/24" {
		t.Errorf("got %+v, %+v", got, set)
	}
	c.Cluster = "../x"
	write(c)
	if _, _, err := readConfig(file); err == nil {
		t.Error("a bad name is taken")
	}
}

func TestRunRefusesOutsideOfANode(t *testing.T) {
	if err := Run(t.Context(), []string{Marker, "demo", "1", "/x"}, quiet()); err == nil {
		t.Error("ran")
	}
	if err := BecomeKubelet(nil); err == nil {
		t.Error("became a kubelet")
	}
}

// The supervisor waits for all children of this process, so nothing else in
// these tests may have any.
func TestSupervisor(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &supervisor{log: quiet(), logs: filepath.Join(t.TempDir(), "x-")}
	var all sync.WaitGroup
	all.Go(func() { s.reap(ctx) })
	defer func() { cancel(); all.Wait() }()

	_, done, err := s.start(program{name: "short", argv: []string{"/bin/sh", "-c", "echo $0 $A; (:) & exit 3"}, env: []string{"A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	<-done
	if b, err := os.ReadFile(s.logs + "short.log"); err != nil || string(b) != "/bin/sh b\n" {
		t.Errorf("log %q, %v", b, err)
	}
	if _, _, err := s.start(program{name: "missing", argv: []string{"/no/such/program"}}); err == nil || !strings.HasPrefix(err.Error(), "missing: ") {
		t.Errorf("error %v", err)
	}

	// One that ends by itself comes again; one that is stopped does not.
	runs := filepath.Join(t.TempDir(), "runs")
	again, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		s.keep(again, program{name: "again", argv: []string{"/bin/sh", "-c", "echo run >> " + runs + "; exec /bin/sleep 0.1"}})
	}()
	waitFor(t, func() bool { b, _ := os.ReadFile(runs); return strings.Count(string(b), "run") >= 2 })
	stop()
	<-kept
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) != 0 {
		t.Errorf("still running: %v", s.running)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := await(ctx, done); err != nil {
		t.Fatal(err)
	}
}

func TestToggle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, runs := false, 0
		var s toggle
		s.run = func(ctx context.Context) { running = true; runs++; <-ctx.Done(); running = false }
		s.off()
		s.on()
		s.on()
		synctest.Wait()
		if !running || runs != 1 {
			t.Errorf("after on: running %v, %d runs", running, runs)
		}
		s.off()
		if running {
			t.Error("off returned before the program had ended")
		}
		s.on()
		synctest.Wait()
		if !running || runs != 2 {
			t.Errorf("after on again: running %v, %d runs", running, runs)
		}
		s.off()
	})
}

func TestControl(t *testing.T) {
	loads := 0
	one := &control{log: quiet(), apiserver: &toggle{run: func(ctx context.Context) { <-ctx.Done() }}, load: func() error {
		if loads++; loads > 1 {
			return errors.New("no layout")
		}
		return nil
	}}
	ask := func(c *control, request string) string {
		t.Helper()
		near, far := net.Pipe()
		defer func() { _ = near.Close() }()
		go c.answer(far)
		fmt.Fprintln(near, request)
		answer, err := bufio.NewReader(near).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(answer)
	}
	for _, c := range []struct{ request, want string }{
		{StartAPIServer, "ok"}, {StopAPIServer, "ok"}, {StopAPIServer, "ok"},
		{Load, "ok"}, {Load, "no layout"}, {"reboot", "unknown request"}, {"", "unknown request"},
	} {
		if got := ask(one, c.request); got != c.want {
			t.Errorf("%q: %q, want %q", c.request, got, c.want)
		}
	}
	if got := ask(&control{log: quiet()}, Load); got != "only node 1 can be asked" {
		t.Errorf("another node: %q", got)
	}
}
