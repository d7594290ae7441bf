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
	"slices"
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
	ID      identity.ID  // who the pod is; no other certificate is accepted
	Pod     string       // its name
	Address netip.Addr   // its IP, where its containers listen
	Node    []netip.Addr // addresses of the node it runs on, as far as they are known
	Probers Probers
	Metrics Metrics
	Citadel Citadel
	Envoy   Envoy

	Port        uint16    // the agent's own. 0: [mesh.AgentPort]
	ProbeFrom   ProbeFrom // who may ask there
	Transparent bool      // connections are captured by TPROXY, not by REDIRECT

	Listen    string // where the agent's own port is. "": every address, Port
	CertDir   string // "": [mesh.CertDir]
	ConfigDir string // "": [mesh.ProxyConfigDir]
	Log       *slog.Logger
}

// CheckStatusPort returns an error where a port is the sidecar's own already and
// so cannot be the agent's.
func CheckStatusPort(port uint16) error {
	switch port {
	case mesh.EnvoyAdminPort, mesh.OutboundPort, mesh.InboundPort, mesh.ReadinessPort, mesh.EnvoyStatsPort:
		return fmt.Errorf("port %d: Envoy's", port)
	}
	return nil
}

func (p Proxy) port() uint16 { return cmp.Or(p.Port, mesh.AgentPort) }

// Run answers probes at once, gets a certificate and keeps it fresh, and runs
// Envoy from the first certificate on. When ctx ends the pod turns unready, Envoy
// drains and ends, and only then the rest: the kubelet's probes are answered to
// the last, and hooks under way are waited for. When Envoy ends by itself, Run
// returns an [*ExitError].
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
	probes := &prober{table: p.Probers, address: p.Address}
	linger := time.Duration(-1)
	if p.Probers.stops() {
		// A plain sidecar is told to stop at the moment at which the kubelet sets out
		// to call the hooks of the containers beside it.
		linger = time.Second
	}
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	return serve.All(alive, serve.Parts{
		"probes": serve.HTTP{
			Addr:    cmp.Or(p.Listen, net.JoinHostPort("", strconv.Itoa(int(p.port())))),
			Handler: p.handler(health, probes, p.sources(ctx)),
			Linger:  linger,
		}.Run,
		"certificate": certs.Run,
		"envoy": func(alive context.Context) error {
			told, stop := context.WithCancel(ctx)
			defer stop()
			defer context.AfterFunc(alive, stop)() // another part failed
			err := p.runEnvoy(told, certs.first, health)
			if err == nil {
				probes.settle()
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

// sources decides who may ask the agent, and tells the log.
func (p Proxy) sources(ctx context.Context) sources {
	gateways, err := defaultGateways()
	if err != nil {
		p.Log.WarnContext(ctx, "routes unknown", "err", err)
	}
	from := p.ProbeFrom.sources(surroundings{
		pod: p.Address, node: p.Node, gateways: gateways,
		behind: len(p.Node) > 0 && !slices.ContainsFunc(p.Node, func(a netip.Addr) bool { return isNextHop(ctx, a) }),
	})
	if from.open != "" {
		p.Log.InfoContext(ctx, "probes answered to everybody", "why", from.open)
	} else {
		p.Log.InfoContext(ctx, "probes answered to the node", "from", fmt.Sprint(from.ranges))
	}
	return from
}

// handler serves the agent's port, which every neighbour reaches. Merged metrics
// are for all of them, the rest for those who may ask: others do not even learn
// what there is.
func (p Proxy) handler(h *health, probes *prober, from sources) http.Handler {
	metrics := newScraper(p.Metrics, p.Envoy.adminAddress(), p.Address, p.Log)
	refused := &refusals{log: p.Log}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		switch {
		case path == mesh.MetricsPath && p.Metrics.merged:
			metrics.ServeHTTP(w, r)
		case !from.allow(caller(r)):
			if path == mesh.ReadyPath || probes.knows(path) {
				refused.add(r)
			}
			w.WriteHeader(http.StatusForbidden)
		case path == mesh.ReadyPath:
			h.ServeHTTP(w, r)
		default:
			probes.ServeHTTP(w, r) // an exact path of its table or 404
		}
	})
}

func (p Proxy) writeBootstrap() (string, error) {
	ipv6, err := hasIPv6()
	if err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	text, err := bootstrap(p, ipv6)
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
