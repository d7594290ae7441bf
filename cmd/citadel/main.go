// Command citadel is the certificate authority of the mesh: it signs certificates for
// callers that a service account token proves, and keeps the Secrets and
// ConfigMaps that carry certificates and roots. Its work is in internal/ca and
// internal/cluster; this is the wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

var version = "unknown" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// client-go has one log for the process; what it says below a warning, we say better.
	klog.SetSlogLogger(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	switch err := run(ctx, os.Args[1:], os.Stderr); {
	case err == nil, errors.Is(err, pflag.ErrHelp):
	case errors.Is(err, errVersion):
		fmt.Fprintln(os.Stdout, "citadel", version)
	default:
		fmt.Fprintln(os.Stderr, "citadel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	api, err := cluster.Connect(s.kubeconfig)
	if err != nil {
		return err
	}
	keys, err := openKeyring(ctx, api, s, log)
	if err != nil {
		return err
	}
	authority := keys.authority
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	service := ca.NewService(authority, authenticator(api.Tokens(s.audience, 0)),
		ca.ServiceOptions{Log: log, Metrics: ca.NewMetrics(metrics, authority)})
	serving := new(serve.Certificate)
	log.Info("started", "version", version, "trust_domain", s.authority.TrustDomain.String())
	return serve.All(ctx, serve.Parts{
		"grpc": serve.GRPC{Addr: s.listen, Server: newServer(serving, service)}.Run,
		"admin": serve.Admin{Addr: s.admin, Metrics: metrics, Profile: s.profile, Ready: map[string]func() error{
			"serving":   serving.Ready,
			"authority": func() error { return authority.Ready(time.Now()) },
		}, Notes: keys.notices}.Run,
		"leader":              lead(api, authority, s, log, metrics, keys.tend),
		"serving certificate": api.WatchSecret(s.namespace, mesh.WorkloadSecret(mesh.ServerAccount(mesh.CitadelService)), keys.again(setServing(serving, authority, log))),
		"keys":                keys.follow,
	})
}
