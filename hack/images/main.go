// Command images builds every container image of the project and of the
// tutorials as one OCI image layout, without a container engine, and pushes
// them to a registry:
//
//	go run ./images build [-out DIR] [-tag TAG] [name ...]
//	go run ./images push  [-out DIR] -registry REG [-apps] [-insecure]
//	go run ./images list  [-out DIR]
//	go run ./images lock
//	go run ./images deps
//
// The same locked input gives the same bytes: Debian packages and wheels are
// taken by their SHA-256 (debian.lock, requirements/), no maintainer script
// runs, and nothing of the host gets in. It refuses an image with a setuid
// program that the catalogue does not allow and a server above its size.
//
// Start reading at the catalogue in catalogue.go, then at [workshop.build].
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errors.New("which command? build, push, list, lock or deps")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "garrison")
	var (
		flags    = flag.NewFlagSet("images "+args[0], flag.ContinueOnError)
		out      = flags.String("out", filepath.Join(cache, "images", "layout"), "the image layout's `folder`")
		tag      = flags.String("tag", "", "`tag` of the project's images (default: git describe)")
		registry = flags.String("registry", "", "`registry` to push to, with a path if wanted")
		apps     = flags.Bool("apps", false, "push the tutorials' applications too")
		insecure = flags.Bool("insecure", false, "speak plain HTTP to the registry")
	)
	flags.SetOutput(stderr)
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if args[0] != "build" && flags.NArg() > 0 {
		return fmt.Errorf("%s takes no arguments: %q", args[0], flags.Args())
	}
	switch args[0] {
	case "build":
		w, err := open(ctx, cache, *tag)
		if err != nil {
			return err
		}
		w.out, w.stdout, w.warn = *out, stdout, stderr
		return w.build(ctx, flags.Args())
	case "push":
		return push(ctx, stdout, pushing{layout: *out, registry: *registry, apps: *apps, insecure: *insecure})
	case "list":
		return list(stdout, *out)
	case "lock":
		w, err := open(ctx, cache, *tag)
		if err != nil {
			return err
		}
		w.stdout, w.warn = stdout, stderr
		return w.lock(ctx)
	case "deps":
		return installDeps(ctx, stdout)
	default:
		return fmt.Errorf("unknown command %q: build, push, list, lock or deps", args[0])
	}
}

// open finds the repository around the working folder and names its version.
func open(ctx context.Context, cache, tag string) (*workshop, error) {
	root, err := output(ctx, ".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, err
	}
	w := &workshop{root: strings.TrimSpace(string(root)), cache: cache, tag: tag}
	if w.tag == "" {
		described, err := output(ctx, w.root, "git", "describe", "--tags", "--always", "--dirty")
		if err != nil {
			return nil, err
		}
		w.tag = strings.TrimSpace(string(described))
	}
	return w, nil
}
