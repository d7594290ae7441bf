package main

import (
	"flag"
	"fmt"
	"io"
	"net/netip"

	"github.com/garrison-mesh/garrison/internal/agent"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// parseRedirect reads the flags of `agent redirect`.
func parseRedirect(args []string, stderr io.Writer) (agent.Capture, error) {
	flags := flag.NewFlagSet("redirect", flag.ContinueOnError)
	mode := flags.String("mode", mesh.RedirectMode, "how incoming connections are captured: "+mesh.RedirectMode+
		", or "+mesh.TPROXYMode+", which keeps their source address")
	uid, gid := ownerID(mesh.ProxyUID), ownerID(mesh.ProxyUID)
	flags.Var(&uid, "proxy-uid", "user `id` whose traffic is left alone under "+mesh.RedirectMode)
	flags.Var(&gid, "proxy-gid", "group `id` whose traffic is left alone under "+mesh.TPROXYMode)
	inbound, outbound := port(mesh.InboundPort), port(mesh.OutboundPort)
	flags.Var(&inbound, "inbound-port", "`port` that incoming connections go to")
	flags.Var(&outbound, "outbound-port", "`port` that outgoing connections go to")

	includeInbound := selection[uint16]{list: list[uint16]{parse: parsePort}}
	flags.Var(&includeInbound, "include-inbound-ports", "comma separated `ports` that are captured when others connect to them, or *, the default")
	excludeInbound := list[uint16]{[]uint16{mesh.AgentPort, mesh.ReadinessPort, mesh.EnvoyStatsPort}, parsePort}
	flags.Var(&excludeInbound, "exclude-inbound-ports", "comma separated `ports` that are not captured where all others are")
	includeRanges := selection[netip.Prefix]{list: list[netip.Prefix]{parse: parseRange}}
	flags.Var(&includeRanges, "include-outbound-ranges", "comma separated `CIDRs`: connections to these are captured; or *, the default")
	excludeRanges := list[netip.Prefix]{parse: parseRange}
	flags.Var(&excludeRanges, "exclude-outbound-ranges", "comma separated `CIDRs`: connections to these are not captured")
	includePorts := list[uint16]{parse: parsePort}
	flags.Var(&includePorts, "include-outbound-ports", "comma separated `ports`: connections to these are captured outside of the included ranges, too")
	excludePorts := list[uint16]{parse: parsePort}
	flags.Var(&excludePorts, "exclude-outbound-ports", "comma separated `ports`: connections to these are not captured")
	if err := parse(flags, args, stderr); err != nil {
		return agent.Capture{}, err
	}
	if *mode != mesh.RedirectMode && *mode != mesh.TPROXYMode {
		return agent.Capture{}, usageError{fmt.Errorf("-mode: %q, neither %s nor %s", *mode, mesh.RedirectMode, mesh.TPROXYMode)}
	}
	c := agent.Capture{
		Transparent:    *mode == mesh.TPROXYMode,
		ProxyUID:       uint32(uid),
		ProxyGID:       uint32(gid),
		InboundPort:    uint16(inbound),
		OutboundPort:   uint16(outbound),
		IncludeInbound: agent.Selection[uint16]{Limited: includeInbound.limited, To: includeInbound.values},
		ExcludeInbound: excludeInbound.values,
		IncludeRanges:  agent.Selection[netip.Prefix]{Limited: includeRanges.limited, To: includeRanges.values},
		ExcludeRanges:  excludeRanges.values,
		IncludePorts:   includePorts.values,
		ExcludePorts:   excludePorts.values,
	}
	if err := c.Check(); err != nil {
		return agent.Capture{}, usageError{err}
	}
	return c, nil
}
