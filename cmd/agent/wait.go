package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/garrison-mesh/garrison/internal/agent"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// wait is `agent wait`, which a sidecar that is no init container has as its
// postStart hook: the kubelet starts the next container only when it ends.
func wait(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("wait", flag.ContinueOnError)
	status := port(mesh.AgentPort)
	flags.Var(&status, "status-port", "`port` of the agent")
	timeout := flags.Duration("timeout", time.Minute, "how long to wait")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	if *timeout <= 0 {
		return usageError{fmt.Errorf("-timeout: %v", *timeout)}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("not within %v", *timeout))
	defer cancel()
	return agent.Wait(ctx, uint16(status))
}
