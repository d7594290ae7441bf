package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

func TestWait(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	serveHTTP(t, l, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != mesh.ReadyPath || asked.Add(1) < 3 {
			w.WriteHeader(503)
		}
	})
	// In a bubble no time passes while an answer is under way, however long that takes.
	synctest.Test(t, func(t *testing.T) {
		if err := Wait(t.Context(), uint16(l.Addr().(*net.TCPAddr).Port)); err != nil || asked.Load() != 3 {
			t.Errorf("%v after %d questions, want 3", err, asked.Load())
		}
	})
}

func TestWaitSaysWhatItWaitedFor(t *testing.T) {
	unready, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	var asked atomic.Int32
	serveHTTP(t, unready, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(503)
			return
		}
		cancel(errors.New("long enough")) // an end in the midst of a question is no answer
		<-r.Context().Done()
	})
	port := unready.Addr().(*net.TCPAddr).Port
	err = Wait(ctx, uint16(port))
	for _, want := range []string{"http://127.0.0.1:" + strconv.Itoa(port) + mesh.ReadyPath, "long enough", "503"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
	nobody := netip.MustParseAddrPort(meshtest.Address(t)).Port()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		if err := Wait(ctx, nobody); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("nobody listens: %v", err)
		}
	})
}
