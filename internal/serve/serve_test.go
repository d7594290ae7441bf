package serve

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/garrison-mesh/garrison/internal/meshtest"
)

func TestAllReturnsTheFirstErrorByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		err := All(t.Context(), Parts{
			"grpc": func(context.Context) error {
				time.Sleep(time.Second)
				return errors.New("port taken")
			},
			"loop": func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second) // All must wait for this
				ended = true
				return errors.New("too late to matter")
			},
			"once": func(context.Context) error { return nil },
		})
		if err == nil || err.Error() != "grpc: port taken" {
			t.Errorf("All = %v, want grpc: port taken", err)
		}
		if !ended {
			t.Error("All did not wait for the other part")
		}
	})
}

func TestAllEndsQuietlyWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("signal"))
	err := All(ctx, Parts{"loop": func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}})
	if err != nil {
		t.Errorf("All = %v, want nil", err)
	}
}

func TestHTTPLingersThenFinishesWhatIsUnderWay(t *testing.T) {
	addr := meshtest.Address(t)
	entered, leave := make(chan bool), make(chan bool)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- HTTP{Addr: addr, Linger: -1, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			entered <- true
			<-leave
			io.WriteString(w, "whole")
		})}.Run(ctx)
	}()
	body := make(chan string, 1)
	go func() {
		for {
			r, err := http.Get("http://" + addr)
			if err != nil {
				continue // not listening yet
			}
			b, _ := io.ReadAll(r.Body)
			r.Body.Close()
			body <- string(b)
			return
		}
	}()
	<-entered
	cancel()
	close(leave)
	if got := <-body; got != "whole" {
		t.Errorf("request under way got %q", got)
	}
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestHTTPRetiresConnectionsWhileLingering(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := retire(ctx, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	answer := func() string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Header().Get("Connection")
	}
	if got := answer(); got != "" {
		t.Errorf("while serving: Connection: %s", got)
	}
	cancel()
	if got := answer(); got != "close" {
		t.Errorf("while lingering: Connection: %q, want close", got)
	}
}

func TestAdminReadiness(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var broken error
	var notes []string
	h := Admin{
		Metrics: prometheus.NewRegistry(),
		Ready:   map[string]func() error{"tls": func() error { return broken }},
		Notes:   func() []string { return notes },
	}.handler(ctx)
	get := func() (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code, w.Body.String()
	}
	if code, body := get(); code != 200 || body != "ok\n" {
		t.Errorf("ready: %d %q", code, body)
	}
	notes = []string{"root key offline"}
	if code, body := get(); code != 200 || body != "ok\nroot key offline\n" {
		t.Errorf("ready, with a note: %d %q", code, body)
	}
	broken = errors.New("no serving certificate yet")
	if code, body := get(); code != 503 || body != "tls: no serving certificate yet\n" {
		t.Errorf("not ready: %d %q", code, body)
	}
	broken = nil
	cancel()
	if code, body := get(); code != 503 || body != "stopping\n" {
		t.Errorf("stopping: %d %q", code, body)
	}
}
