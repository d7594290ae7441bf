package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/mirror"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/settings"
)

// poll is how often a node looks for what another program is about to make.
const poll = 20 * time.Millisecond

// serve runs the node's programs until ctx ends and all of them have.
func serve(ctx context.Context, cfg Config, set settings.Node, s *supervisor, log *slog.Logger) error {
	env := []string{"PATH=" + cfg.Parts.Containerd + ":" + cfg.Path}
	var programs sync.WaitGroup
	keep := func(p program, after ...func(context.Context) error) {
		p.env = env
		programs.Go(func() {
			for _, wait := range after {
				if wait(ctx) != nil {
					return // only the end of ctx ends a wait
				}
			}
			s.keep(ctx, p)
		})
	}
	control := &control{log: log}
	if cfg.N == 1 {
		m, stop, err := serveMirror(cfg, set, log)
		if err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
		defer stop()
		server := program{name: "server", argv: []string{cfg.Parts.Kubernetes, "server", settings.ServerFile}, env: env}
		control.apiserver = &toggle{run: func(ctx context.Context) { s.keep(ctx, server) }}
		control.load = func() error { return load(m, cfg, log) }
		control.apiserver.on()
		defer control.apiserver.off()
	}
	ready, err := apiReady(set)
	if err != nil {
		return err
	}
	keep(program{
		name: "containerd",
		argv: append([]string{filepath.Join(cfg.Parts.Containerd, "containerd")}, set.ContainerdArgs()...),
	})
	// Both would wait for the API server too, but in steps of seconds.
	keep(program{
		name: "kube-proxy",
		argv: append([]string{cfg.Parts.Kubernetes, "kube-proxy"}, set.KubeProxyArgs()...),
	}, ready)
	keep(program{
		name:       "kubelet",
		argv:       append([]string{KubeletMarker, cfg.Parts.Kubernetes, "kubelet"}, set.KubeletArgs()...),
		argv0:      "/proc/self/exe",
		cloneflags: syscall.CLONE_NEWNS,
	}, ready, containerdReady)

	err = control.serve(ctx, filepath.Join(settings.Run, controlSocket))
	programs.Wait()
	return err
}

// serveMirror serves the cluster's images on the node's own address: the only
// one that all nodes and the host reach, and nobody else.
func serveMirror(cfg Config, set settings.Node, log *slog.Logger) (*mirror.Mirror, func(), error) {
	m, err := mirror.New(set.Data("mirror"), slog.NewLogLogger(log.Handler(), slog.LevelDebug))
	if err != nil {
		return nil, nil, err
	}
	if err := load(m, cfg, log); err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", set.Cluster.Mirror())
	if err != nil {
		return nil, nil, err
	}
	server := &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("mirror ended", "err", err)
		}
	}()
	return m, func() { _ = server.Close(); <-ended }, nil
}

func load(m *mirror.Mirror, cfg Config, log *slog.Logger) error {
	for _, layout := range append([]string{cfg.Parts.Images}, cfg.Layouts...) {
		n, err := m.Load(layout)
		if err != nil {
			return err
		}
		log.Info("loaded", "layout", layout, "images", n)
	}
	return nil
}

// apiReady returns a wait for the API server of the cluster.
func apiReady(set settings.Node) (func(context.Context) error, error) {
	pem, err := os.ReadFile(set.PKI.CA())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
	}
	return func(ctx context.Context) error {
		return await(ctx, func() bool {
			resp, err := client.Get(set.Cluster.Server() + "/readyz")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}, nil
}

func containerdReady(ctx context.Context) error {
	return await(ctx, func() bool {
		c, err := net.Dial("unix", settings.ContainerdSocket)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func await(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
	return nil
}
