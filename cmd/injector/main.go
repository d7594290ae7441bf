// Command injector is the admission webhook that puts the sidecar into pods. Its
// decisions are those of package inject; this command wires them to HTTPS, to the
// certificate that Citadel issues for it, and to its webhook's caBundle, and
// decides nothing. Start reading at run; flags.go lists the settings.
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
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
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
	injector := inject.NewInjector(c.settings, log, metrics)
	own := newCredentials(c.namespace, log, metrics)
	log.InfoContext(ctx, "starting", "version", version, "listen", c.listen, "configuration", c.settings.Hash())
	return serve.All(ctx, serve.Parts{
		"webhook":     serve.HTTP{Addr: c.listen, Handler: router(injector, c.limits, log), TLS: own.certificate.TLS("h2", "http/1.1")}.Run,
		"certificate": api.WatchSecret(c.namespace, mesh.WorkloadSecret(mesh.ServerAccount(mesh.InjectorService)), own.update),
		"caBundle": func(ctx context.Context) error {
			lease := cluster.Lease{Namespace: c.namespace, Name: mesh.InjectorLease, Identity: c.podName, Log: log}
			return api.Lead(ctx, lease, api.KeepCABundle(cluster.CABundleKeeper{
				Bundle: own.bundle, Changed: own.changed, Served: own.chain, Log: log, Metrics: metrics,
			}))
		},
		"admin": serve.Admin{
			Addr: c.admin, Metrics: metrics, Profile: c.profile,
			Ready: map[string]func() error{"certificate": own.certificate.Ready},
		}.Run,
	})
}
