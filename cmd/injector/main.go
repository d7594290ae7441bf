// Command injector is the admission webhook that puts the sidecar into pods. Its
// decisions are those of package inject; this command wires them to HTTPS, to the
// certificate that Citadel issues for it, to its webhook's caBundle, and to what it
// watches of the cluster, and decides nothing. Start reading at run; flags.go lists what
// concerns the process, parts.go what runs.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/klog/v2"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// version is set when the binary is linked.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "injector: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if c == nil {
		return nil // help was asked for
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: c.level}))
	klog.SetSlogLogger(log) // client-go's lines
	api, err := cluster.Connect(c.kubeconfig)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	log.InfoContext(ctx, "starting", "version", version, "listen", c.listen, "revision", c.settings.Revision(), "configuration", c.settings.Hash())
	return serve.All(ctx, parts(c, api, log, metrics))
}
