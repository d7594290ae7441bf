package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// limits are how much is done for others at a time, and for one of them.
type limits struct {
	gate ca.GateOptions
	door serve.DoorOptions
}

func (l *limits) flags(f *pflag.FlagSet) {
	f.IntVar(&l.gate.Slots, "max-signing", 0, "certificates made at a time; 0: two for each processor")
	f.IntVar(&l.gate.Waiting, "max-waiting", ca.DefaultWaiting, "requests that wait for their turn; others are told to come back")
	f.Float64Var(&l.gate.Rate, "max-rate", ca.DefaultRate, "requests a second, of all callers")
	f.Float64Var(&l.gate.CallerRate, "caller-rate", ca.DefaultCallerRate, "requests a second, of one pod")
	f.IntVar(&l.gate.CallerBurst, "caller-burst", ca.DefaultCallerBurst, "requests of one pod at once")
	f.IntVar(&l.door.Connections, "max-connections", serve.DefaultConnections, "open connections; others wait until one of them has gone")
	f.IntVar(&l.door.Handshakes, "max-handshakes", serve.DefaultHandshakes, "TLS handshakes under way")
	f.IntVar(&l.door.SourceConnections, "max-source-connections", serve.DefaultSourceConnections,
		"open connections with one address (of IPv6, one /64); fewer as max-connections comes near")
	f.IntVar(&l.door.SourceHandshakes, "max-source-handshakes", serve.DefaultSourceHandshakes,
		"TLS handshakes under way with one address; fewer as max-handshakes comes near")
	f.Float64Var(&l.door.SourceRate, "source-rate", serve.DefaultSourceRate, "new connections a second from one address")
	f.IntVar(&l.door.SourceBurst, "source-burst", serve.DefaultSourceBurst, "new connections at once from one address")
}

// check returns what is no limit. 0 means the default to the parts, and so would say
// the opposite of what was meant.
func (l *limits) check() (errs []error) {
	for _, limit := range []struct {
		flag string
		n    float64
	}{
		{"max-waiting", float64(l.gate.Waiting)},
		{"max-rate", l.gate.Rate},
		{"caller-rate", l.gate.CallerRate},
		{"caller-burst", float64(l.gate.CallerBurst)},
		{"max-connections", float64(l.door.Connections)},
		{"max-handshakes", float64(l.door.Handshakes)},
		{"max-source-connections", float64(l.door.SourceConnections)},
		{"max-source-handshakes", float64(l.door.SourceHandshakes)},
		{"source-rate", l.door.SourceRate},
		{"source-burst", float64(l.door.SourceBurst)},
	} {
		if !(limit.n > 0) { // nor is NaN
			errs = append(errs, fmt.Errorf("%s %v: must be more than 0", limit.flag, limit.n))
		}
	}
	if l.gate.Slots < 0 {
		errs = append(errs, fmt.Errorf("max-signing %d: less than 0", l.gate.Slots))
	}
	return errs
}

func (l *limits) newGate(r prometheus.Registerer) *ca.Gate {
	o := l.gate
	o.Metrics = r
	return ca.NewGate(o)
}

func (l *limits) newDoor(r prometheus.Registerer) *serve.Door {
	o := l.door
	o.Metrics = r
	return serve.NewDoor(o)
}
