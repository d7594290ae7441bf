// Command bench measures what an admission review and a signed certificate cost
// Garrison's servers, beside the least that any program would spend on them on the
// same machine in the same minute. It prints a line for each figure:
//
//	name value unit goal G met|short
//
// followed by the number of repeats and their spread; figures without a goal are
// there for comparison. Being slow is a result and no failure: bench fails only
// when it could not measure.
//
// What is measured is CPU time of the server's own process, for rates and
// latencies on a machine that runs the load as well say little. The servers are
// this program again, started as "bench serve <role>" (serve.go): the real
// handlers without an API server, and the floors (floor.go).
//
// "secrets" keeps the Secrets of many service accounts by a simulated API server.
//
// Some sections measure more than handlers, and say so where what they need is
// missing. "command" starts the real injector beside an API server of its own, which
// the lab's command brings; "csr" and "storm" do so with the real Citadel. "apiserver"
// asks the cluster that KUBECONFIG names how long its API server waits for the injector
// installed there, creating pods by dry run in two namespaces that go when it is done;
// "reviews" has that API server review tokens. The rest asks no cluster, and all of it
// leaves loopback alone apart from its own ports. Start reading at [bench.all].
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 1 && args[0] == "serve" {
		return runServer(ctx, args[1:], out)
	}
	if len(args) == 2 && args[0] == "keep" {
		return keepSecrets(ctx, args[1], os.Stdin)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "measure for about a minute: enough to see that it works, not to believe it")
	only := flags.String("only", "", "measure one `section`: webhook, ca, process, secrets, command, apiserver, csr, storm or reviews")
	profile := flags.String("profile", "", "write each server's CPU profile into this `folder`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	p := plan{
		repeats: 7, window: 3 * time.Second, podRepeats: 3, podWindow: 2 * time.Second,
		benchtime: "0.4s", processRepeats: 5, starts: 7, creates: 200,
		agents: 10_000, accounts: 50_000, reviews: 6000,
	}
	bound := 20 * time.Minute
	if *quick {
		p = plan{
			repeats: 3, window: 400 * time.Millisecond, podRepeats: 1, podWindow: 400 * time.Millisecond,
			benchtime: "0.05s", processRepeats: 1, starts: 2, creates: 50,
			agents: 500, accounts: 2_000, reviews: 600,
		}
		bound = 4 * time.Minute
	}
	p.lab = cmp.Or(os.Getenv("GARRISON_CLUSTER_BIN"), filepath.Join("build", "bin", "cluster"))
	p.kubeconfig = os.Getenv("KUBECONFIG")
	if p.profile = *profile; p.profile != "" {
		if err := os.MkdirAll(p.profile, 0o755); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("not done after %v", bound))
	defer cancel()
	dir, err := os.MkdirTemp("", "garrison-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	fmt.Fprintf(out, "# %s %s/%s, %d CPUs%s, %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processor(),
		time.Now().UTC().Format(time.RFC3339))
	fmt.Fprintf(out, "# webhook: HTTP/1.1, TLS 1.3, %d clients, %d in the crowd; ca: TLS gRPC, 1 connection, %d clients, P-256; %d × %v each, in turn\n",
		webhookClients, crowdClients, caClients, p.repeats, p.window)
	b := bench{plan: p, dir: dir, report: func(figures ...figure) {
		for _, f := range figures {
			fmt.Fprintln(out, f)
		}
	}, note: func(format string, args ...any) {
		fmt.Fprintf(out, "# "+format+"\n", args...)
	}}
	return b.all(ctx, *only)
}

// runServer serves a role until it is told to end, or until whoever started it is
// gone: then standard input ends.
func runServer(ctx context.Context, args []string, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with standard input, or with the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	profile := ""
	if len(args) > 1 {
		profile = args[1]
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	return profiled(profile, func() error { return serveRole(ctx, args[0], out, log) })
}

// processor names the processor's model, where Linux knows it.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(info) {
		if key, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(key)) == "model name" {
			return " " + string(bytes.TrimSpace(value))
		}
	}
	return ""
}
