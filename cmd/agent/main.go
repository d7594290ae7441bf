// Command agent runs in every pod of the mesh, as two of its containers.
//
//	agent redirect   sets the capture rules of the pod, and ends (istio-init)
//	agent proxy      keeps the pod's certificate and runs Envoy (istio-proxy)
//	agent wait       ends when the sidecar is ready (a hook of istio-proxy)
//
// It refuses any other word. The exit status is 2 for a wrong call, Envoy's own
// where Envoy ended by itself, and 1 for other errors.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/garrison-mesh/garrison/internal/agent"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stderr)
	var wrong usageError
	var envoy *agent.ExitError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	case errors.As(err, &wrong):
		fmt.Fprintf(os.Stderr, "agent: %v\n%s", err, usage)
		os.Exit(2)
	case errors.As(err, &envoy):
		fmt.Fprintf(os.Stderr, "agent: %v\n", err)
		os.Exit(envoy.Code)
	default:
		fmt.Fprintf(os.Stderr, "agent: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, env func(string) string, stderr io.Writer) error {
	if len(args) == 0 {
		return usageError{errors.New("no command")}
	}
	switch args[0] {
	case "redirect":
		c, err := parseRedirect(args[1:], stderr)
		if err != nil {
			return err
		}
		return c.Install(ctx, slog.New(slog.NewJSONHandler(stderr, nil)))
	case "proxy":
		p, err := parseProxy(args[1:], env, stderr)
		if err != nil {
			return err
		}
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1)
		defer signal.Stop(signals)
		p.Envoy.Signals = signals
		p.Log.InfoContext(ctx, "agent started", "version", version, "id", p.ID.String(), "probes", p.Probers.Len())
		return p.Run(ctx)
	case "wait":
		return wait(ctx, args[1:], stderr)
	}
	return usageError{fmt.Errorf("unknown command %q", args[0])}
}
