package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// Proxy is the sidecar of one pod.
type Proxy struct {
	ID      identity.ID // who the pod is; no other certificate is accepted
	Pod     string      // its name
	Address netip.Addr  // its IP, where its containers listen
	Probers Probers
	Citadel Citadel
	Envoy   Envoy

	Listen    string // the agent's own port. "": every address, [mesh.AgentPort]
	CertDir   string // "": [mesh.CertDir]
	ConfigDir string // "": [mesh.ProxyConfigDir]
	Log       *slog.Logger
}

// Run answers probes at once, gets a certificate and keeps it fresh, and runs
// Envoy from the first certificate on. When ctx ends the pod turns unready, Envoy
// drains and ends, and only then the rest: the kubelet's probes are answered to
// the last. When Envoy ends by itself, Run returns an [*ExitError].
func (p Proxy) Run(ctx context.Context) error {
	dir := store(cmp.Or(p.CertDir, mesh.CertDir))
	certs := newRenewer(
		func(ctx context.Context) (*Certificate, error) { return p.Citadel.Fetch(ctx, p.ID) },
		func(c *Certificate) error {
			if err := dir.write(c); err != nil {
				return fmt.Errorf("storing the certificate: %w", err)
			}
			return nil
		}, p.Log)
	if c, err := dir.read(p.ID, time.Now()); err == nil {
		certs.adopt(c)
		p.Log.InfoContext(ctx, "certificate of an earlier run adopted", "expires", c.NotAfter())
	}

	health := &health{certificate: certs.valid, live: p.Envoy.live}
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	return serve.All(alive, serve.Parts{
		"probes": serve.HTTP{
			Addr:    cmp.Or(p.Listen, net.JoinHostPort("", strconv.Itoa(mesh.AgentPort))),
			Handler: p.handler(health),
			Linger:  -1,
		}.Run,
		"certificate": certs.Run,
		"envoy": func(alive context.Context) error {
			told, stop := context.WithCancel(ctx)
			defer stop()
			defer context.AfterFunc(alive, stop)() // another part failed
			err := p.runEnvoy(told, certs.first, health)
			if err == nil {
				end() // as told: nothing is left to serve
			}
			return err
		},
	})
}

// runEnvoy starts Envoy once there is a certificate, and returns when it ended.
func (p Proxy) runEnvoy(ctx context.Context, certificate <-chan struct{}, health *health) error {
	defer context.AfterFunc(ctx, health.stop)()
	select {
	case <-ctx.Done():
		return nil
	case <-certificate:
	}
	file, err := p.writeBootstrap()
	if err != nil {
		return err
	}
	return p.Envoy.Run(ctx, file, p.Log)
}

// handler serves the agent's port, which every neighbour reaches.
func (p Proxy) handler(h *health) http.Handler {
	probes := &prober{table: p.Probers, address: p.Address}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == mesh.ReadyPath {
			h.ServeHTTP(w, r)
			return
		}
		probes.ServeHTTP(w, r) // an exact path of its table or 404
	})
}

func (p Proxy) writeBootstrap() (string, error) {
	text, err := bootstrap(p.ID, p.Pod, p.Address)
	if err != nil {
		return "", err
	}
	file := filepath.Join(cmp.Or(p.ConfigDir, mesh.ProxyConfigDir), "bootstrap.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	return file, nil
}

// health answers whether the sidecar is ready: a valid certificate, a live Envoy,
// and nobody told it to stop. It does not say which is missing; the log does.
type health struct {
	certificate func(now time.Time) bool
	live        func(context.Context) bool

	stopping atomic.Bool
	underway singleflight.Group // callers share one question to Envoy
}

func (h *health) stop() { h.stopping.Store(true) }

func (h *health) ready(ctx context.Context) bool {
	return !h.stopping.Load() && h.certificate(time.Now()) && h.live(ctx)
}

func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	ready, _, _ := h.underway.Do("", func() (any, error) { return h.ready(context.WithoutCancel(r.Context())), nil })
	status := http.StatusOK
	if ready != true {
		status = http.StatusServiceUnavailable
	}
	http.Error(w, http.StatusText(status), status)
}
