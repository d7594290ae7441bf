package serve

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin is the plain-HTTP endpoint of a server for kubelets and dashboards:
// /healthz, /readyz and /metrics, and on request /debug/pprof/.
type Admin struct {
	Addr    string
	Metrics prometheus.Gatherer
	Ready   map[string]func() error // by name; every one must return nil
	Profile bool

	// Notes are what is well for now but wants somebody's attention: /readyz adds them to
	// its ok, a line each. Nil means there are none.
	Notes func() []string
}

// Run serves until ctx ends. Readiness turns false the moment it does, so that
// traffic leaves while the other parts linger.
func (a Admin) Run(ctx context.Context) error {
	return HTTP{Addr: a.Addr, Handler: a.handler(ctx)}.Run(ctx)
}

func (a Admin) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ctx.Err() != nil {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		for name, ready := range a.Ready {
			if err := ready(); err != nil {
				http.Error(w, name+": "+err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
		if a.Notes == nil {
			return
		}
		for _, note := range a.Notes() {
			fmt.Fprintln(w, note)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.Metrics, promhttp.HandlerOpts{}))
	if a.Profile {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }
