package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/garrison-mesh/garrison/internal/agent"
	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

const usage = `usage:
  agent redirect [flags]   set the capture rules of this network namespace
  agent proxy [flags]      run the sidecar
  agent wait [flags]       end when the sidecar is ready
  agent <command> -help    the flags of a command
`

// usageError is a wrong call: flags, words or environment that the caller can put
// right.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// parse reads flags and nothing beside them.
func parse(flags *flag.FlagSet, args []string, stderr io.Writer) error {
	flags.SetOutput(io.Discard) // a mistake is told once, with the error
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(stderr, "usage: agent %s [flags]\n", flags.Name())
		flags.SetOutput(stderr)
		flags.PrintDefaults()
		return err
	}
	if err != nil {
		return usageError{err}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("%s: unknown argument %q", flags.Name(), flags.Arg(0))}
	}
	return nil
}

// parseProxy reads the flags of `agent proxy` and the variables that the injector
// sets, and tells all that is wrong at once.
func parseProxy(args []string, env func(string) string, stderr io.Writer) (agent.Proxy, error) {
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	var level slog.Level
	flags.TextVar(&level, "log-level", slog.LevelInfo, "of the agent: debug, info, warn or error")
	envoy := flags.String("envoy", "/usr/local/bin/envoy", "`path` of the Envoy binary")
	envoyLevel := flags.String("envoy-log-level", "warning", "of Envoy")
	concurrency := flags.Int("concurrency", 2, "worker `threads` of Envoy")
	drain := flags.Duration("drain-time", 5*time.Second, "how long connections may take to end at the end")
	status := port(mesh.AgentPort)
	flags.Var(&status, "status-port", "`port` of the agent: probes and merged metrics")
	mode := flags.String("mode", mesh.RedirectMode, "how connections are captured: "+mesh.RedirectMode+" or "+mesh.TPROXYMode)
	var from agent.ProbeFrom
	flags.Func("probe-from", "who may ask for probes: node, any or comma separated CIDR `ranges` (default node)", func(text string) (err error) {
		from, err = agent.ParseProbeFrom(text)
		return err
	})
	if err := parse(flags, args, stderr); err != nil {
		return agent.Proxy{}, err
	}

	var errs []error
	complain := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	need := func(name string) string {
		value := env(name)
		if value == "" {
			errs = append(errs, fmt.Errorf("environment variable %s is required", name))
		}
		return value
	}
	if *concurrency < 1 {
		errs = append(errs, fmt.Errorf("-concurrency: %d, at least 1", *concurrency))
	}
	if *drain < time.Second {
		errs = append(errs, fmt.Errorf("-drain-time: %v, at least 1s", *drain))
	}
	if *mode != mesh.RedirectMode && *mode != mesh.TPROXYMode {
		errs = append(errs, fmt.Errorf("-mode: %q, neither %s nor %s", *mode, mesh.RedirectMode, mesh.TPROXYMode))
	}
	complain("-status-port", agent.CheckStatusPort(uint16(status)))
	p := agent.Proxy{
		Port: uint16(status), ProbeFrom: from, Transparent: *mode == mesh.TPROXYMode,
		Pod:     need(mesh.PodNameEnv),
		Citadel: agent.Citadel{Addr: need(mesh.CAAddressEnv)},
		Envoy: agent.Envoy{
			Path: *envoy, Concurrency: *concurrency, LogLevel: *envoyLevel, Drain: *drain, Output: stderr,
		},
		Log: slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level})),
	}
	if p.Citadel.Addr != "" {
		_, _, err := net.SplitHostPort(p.Citadel.Addr)
		complain(mesh.CAAddressEnv, err)
	}
	if domain, ns, account := need(mesh.TrustDomainEnv), need(mesh.PodNamespaceEnv), need(mesh.ServiceAccountEnv); domain != "" && ns != "" && account != "" {
		td, err := identity.ParseTrustDomain(domain)
		complain(mesh.TrustDomainEnv, err)
		if err == nil {
			p.ID, err = identity.New(td, ns, account)
			complain(mesh.PodNamespaceEnv+", "+mesh.ServiceAccountEnv, err)
		}
	}
	if address := need(mesh.InstanceIPEnv); address != "" {
		var err error
		p.Address, err = parseAddress(address)
		complain(mesh.InstanceIPEnv, err)
	}
	var err error
	if addresses := env(mesh.HostIPsEnv); addresses != "" {
		for word := range strings.SplitSeq(addresses, ",") {
			a, err := parseAddress(word)
			complain(mesh.HostIPsEnv, err)
			p.Node = append(p.Node, a)
		}
	}
	p.Probers, err = agent.ParseProbers(env(mesh.ProbersEnv), p.Port)
	complain(mesh.ProbersEnv, err)
	p.Metrics, err = agent.ParseMetrics(env(mesh.PrometheusEnv), env(mesh.ScrapeTargetsEnv), p.Port)
	complain(mesh.PrometheusEnv+", "+mesh.ScrapeTargetsEnv, err)
	if len(errs) > 0 {
		return agent.Proxy{}, usageError{errors.Join(errs...)}
	}
	return p, nil
}

// parseAddress also takes the brackets in which IPv6 addresses stand beside ports.
func parseAddress(text string) (netip.Addr, error) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			text = inner
		}
	}
	a, err := netip.ParseAddr(text)
	return a.Unmap(), err
}
