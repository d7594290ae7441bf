//go:build linux

// Command cluster is the lab: a real Kubernetes on one machine, made of
// processes in namespaces, without a container engine. README.md beside it says
// what it gives and what it adds to the host.
//
// It refuses to run a cluster where it is not root or not on Linux, and to touch
// one that belongs to another working copy. Start reading at up.go; the packages
// below internal are the parts of it: plan (names and addresses), parts (what is
// built), pki, settings (what the programs are told), node (the inside of a
// node), host (what is added to the host, and its removal), mirror (images).
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

	"github.com/garrison-mesh/garrison/hack/cluster/internal/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		if _, ok := errors.AsType[usageError](err); ok {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	switch args[0] { // the program starts itself under these names
	case node.Marker:
		return node.Run(ctx, args, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	case node.KubeletMarker:
		return node.BecomeKubelet(args[1:])
	}
	o, err := parseOptions(args[1:], os.Getenv)
	if err != nil {
		return err
	}
	l, err := newLab(o, stdout)
	if err != nil {
		return err
	}
	switch o.command {
	case "deps":
		return l.deps(ctx)
	case "build":
		return l.build(ctx)
	case "up":
		return l.up(ctx)
	case "down":
		return l.down(ctx)
	case "apiserver":
		return l.apiserver(ctx)
	default: // the others are for the node to do
		return l.ask(ctx, o.command)
	}
}
