//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/node"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
)

const usage = `usage: cluster COMMAND [flags]

  up               start a cluster; says so if it is up already
  down             end it and remove all that it added to this machine
  build            build the parts that are missing
  deps             install the Debian packages that are missing
  load             serve the images as they are now
  stop-apiserver   stop the control plane; pods go on running
  start-apiserver  start it again
  apiserver        only etcd and an API server, on loopback, without root, until
                   it is told to end; prints "ready URL"

flags, and the variables of the environment that they default to:
  -cluster NAME    which cluster (CLUSTER, else "cluster")
  -nodes N         how many nodes (NODES, else 1)
  -dir DIR         of apiserver: where it puts kubeconfig, sa.key and its data
`

// usageError is a mistake in how the program was called.
type usageError struct{ error }

type options struct {
	command string
	cluster string
	nodes   int
	dir     string
	cache   string // the user's cache folder
	path    string // where programs are looked up
}

// parseOptions checks everything that the caller can get wrong.
func parseOptions(args []string, getenv func(string) string) (options, error) {
	o := options{cache: getenv("XDG_CACHE_HOME"), path: getenv("PATH")}
	if o.cache == "" {
		o.cache = getenv("HOME") + "/.cache"
	}
	if len(args) == 0 {
		return o, usageError{fmt.Errorf("which command?\n\n%s", usage)}
	}
	o.command = args[0]
	commands := []string{"up", "down", "build", "deps", "apiserver", node.Load, node.StopAPIServer, node.StartAPIServer}
	if !slices.Contains(commands, o.command) {
		return o, usageError{fmt.Errorf("%q is no command\n\n%s", o.command, usage)}
	}
	flags := flag.NewFlagSet(o.command, flag.ContinueOnError)
	flags.SetOutput(new(strings.Builder)) // what is wrong is in the error
	nodes := flags.String("nodes", or(getenv("NODES"), "1"), "")
	flags.StringVar(&o.cluster, "cluster", or(getenv("CLUSTER"), "cluster"), "")
	flags.StringVar(&o.dir, "dir", "", "")
	if err := flags.Parse(args[1:]); err != nil {
		return o, usageError{fmt.Errorf("%w\n\n%s", err, usage)}
	}
	if flags.NArg() > 0 {
		return o, usageError{fmt.Errorf("%s takes no %q", o.command, flags.Args())}
	}
	var err error
	if o.nodes, err = strconv.Atoi(*nodes); err != nil || o.nodes < 1 || o.nodes > plan.MaxNodes {
		return o, usageError{fmt.Errorf("nodes %q: want 1 to %d", *nodes, plan.MaxNodes)}
	}
	if err := plan.CheckName(o.cluster); err != nil {
		return o, usageError{err}
	}
	if (o.command == "apiserver") != (o.dir != "") {
		return o, usageError{errors.New("apiserver needs -dir, and nothing else does")}
	}
	return o, nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
