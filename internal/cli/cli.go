// Package cli holds the commands of garrison, the operator's program. Each is a file
// of its own, with a function that returns its *cobra.Command; [Run] puts them
// together. A command reads flags and arguments, gets from files or the API server
// what a pure function of the product packages needs, and prints what that says. It
// decides nothing that a server decides too: those decisions are the same functions.
//
// A new command: its file, a line in root, and a script in testdata. It writes to
// c.OutOrStdout, never logs, and returns its error: a usageError for what the user
// mistyped, a foundError where the command has worked and what it looked for is
// there, any other for what went wrong. If it talks to a cluster, it takes its flags
// and its client from [access].
//
// It reads no environment: what a command gets of it is in [Env].
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Env is what commands get from the process that they run in.
type Env struct {
	In       io.Reader
	Out, Err io.Writer // results; everything else

	// Kubeconfig lists the files that say how to reach the cluster, as the variable
	// KUBECONFIG does: the flag --kubeconfig beats it.
	Kubeconfig string

	Version string // of this build
}

// Exit codes.
const (
	exitOK    = iota
	exitError // what was to be done was not
	exitUsage // the command line is not one
	exitFound // done, and there is what was looked for, such as drift
)

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// foundError is a result that a script wants to branch on.
type foundError struct{ error }

func (e foundError) Unwrap() error { return e.error }

// ExitCode returns what the process is to end with after Run returned err: 0 for
// nil, 1 for what went wrong, 2 for a mistake in the command line, 3 where a command
// found what it looked for.
func ExitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[foundError](err); ok {
		return exitFound
	}
	return exitError
}

// Run executes one command line, without the name of the program. The error is for
// the caller to print.
func Run(ctx context.Context, env Env, args ...string) error {
	c := root(env)
	c.SetArgs(append([]string{}, args...)) // never nil, for which cobra would take the process's own
	return c.ExecuteContext(ctx)
}

func root(env Env) *cobra.Command {
	c := group(&cobra.Command{
		Use:   "garrison",
		Short: "Look into Garrison, and prepare what it needs",
		Long: `Look into Garrison, and prepare what it needs.

Garrison puts a sidecar into the pods of a Kubernetes cluster and gives each
service account a certificate, so that services prove who they are and talk only
over mutual TLS. This program is for the people who run it. It uses the rights of
your kubeconfig, and the very functions by which the servers decide: what it says
of a pod is what they do. Nothing is changed unless a command's help says so.

Results go to standard output, everything else to standard error. The exit code is
0 when all is well, 1 when something went wrong, 2 when the command line is wrong,
and 3 when a command that looks for something, such as drift, has found it.`,
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
	},
		explain(env),
		injectCommand(env),
		uninjectCommand(),
		drift(env),
		certs(env),
		caCommand(env),
		manifests(),
		version(env),
	)
	c.SetIn(env.In)
	c.SetOut(env.Out)
	c.SetErr(env.Err)
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return mistaken(c, err) })
	return c
}

// group makes a command that only has others: alone it prints its help.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.AddCommand(commands...)
	c.DisableFlagsInUseLine = true
	c.SuggestionsMinimumDistance = 2
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := fmt.Errorf("%q is no command", args[0])
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
		}
		return mistaken(c, err)
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return c
}

// noArgs is for commands that take flags only.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return mistaken(c, fmt.Errorf("argument %q: only flags are taken", args[0]))
	}
	return nil
}

// mistaken says where to read how a command is used.
func mistaken(c *cobra.Command, err error) error {
	return usageError{fmt.Errorf("%w\n%s --help says more", err, c.CommandPath())}
}
