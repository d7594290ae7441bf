// Command garrison is for the people who run Garrison: it explains decisions and
// prints what an installation needs. The commands are those of package cli; this one
// hands them the process. Start reading at run.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/garrison-mesh/garrison/internal/cli"
)

// version is set when the binary is linked.
var version = "unknown"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	home, _ := os.UserHomeDir() // without one, only KUBECONFIG and --kubeconfig count
	err := cli.Run(ctx, cli.Env{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Kubeconfig: cmp.Or(os.Getenv("KUBECONFIG"), filepath.Join(home, ".kube", "config")),
		Version:    version,
	}, os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "garrison: "+err.Error())
	}
	return cli.ExitCode(err)
}
