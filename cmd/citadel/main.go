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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/serve"
)

var version = "unknown" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// client-go has one log for the process; what it says below a warning, we say better.
	klog.SetSlogLogger(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	signal.Ignore(syscall.SIGPIPE) // a record that nobody reads is an error, and not the end
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case err == nil, errors.Is(err, pflag.ErrHelp):
	case errors.Is(err, errVersion):
		fmt.Fprintln(os.Stdout, "citadel", version)
	default:
		fmt.Fprintln(os.Stderr, "citadel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: s.level}))
	api, err := cluster.Connect(s.kubeconfig)
	if err != nil {
		return err
	}
	record, err := openRecord(ctx, api, recordOptions{settings: s, stdout: stdout, log: log})
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	running, err := process{api: api, settings: s, record: record, log: log, metrics: metrics}.parts(ctx)
	if err != nil {
		return record.close(err)
	}
	log.Info("started", "version", version, "trust_domain", s.authority.TrustDomain.String())
	return record.close(serve.All(ctx, running))
}
