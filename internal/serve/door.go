package serve

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/tap"

	"github.com/garrison-mesh/garrison/internal/recent"
	"github.com/garrison-mesh/garrison/internal/remote"
)

// Defaults of [DoorOptions]. Pods have addresses of their own; the most that comes
// from one is a node whose pods hide behind it, a few hundred. A connection takes
// about 40 KiB.
const (
	DefaultConnections       = 4096
	DefaultHandshakes        = 1024
	DefaultSourceHandshakes  = 128
	DefaultSourceConnections = 1024
	DefaultSourceRate        = 100
	DefaultSourceBurst       = 500
	DefaultCalls             = 10000
	DefaultCallTime          = 10 * time.Second

	DefaultHandshakeTime = 5 * time.Second

	sourcesKept = 16 << 10
)

// DoorOptions are the settings of a [Door]. Zero values mean defaults, the
// constants beside this type.
type DoorOptions struct {
	Connections       int           // open at a time
	Handshakes        int           // of TLS, under way at a time
	SourceConnections int           // open at a time, of one source, and fewer as all together come near to Connections
	SourceHandshakes  int           // the same of handshakes
	SourceRate        float64       // new connections a second, of one source
	SourceBurst       int           // new connections at once, of one source
	HandshakeTime     time.Duration // from a connection's begin until it can carry calls
	Calls             int           // under way at a time, over all connections
	CallTime          time.Duration // from a call's headers to its end

	Metrics prometheus.Registerer // nothing can read them
}

// Door bounds what strangers may cost a gRPC server before they have proven
// anything: how many connections they have, how fast they open them, how many of
// them sit in a handshake, how many calls have begun and for how long. A source is
// an IPv4 address or the /64 of an IPv6 one, as whoever has one address of that has
// them all.
//
// What is too much of one source is closed without a word, at the cost of an accept. How
// much that is falls with what is left for all, so that few sources, however greedy, leave
// room for any other: of handshakes eight get half between them, a hundred nine tenths.
//
// What is too much of all together waits where the kernel keeps it: when everybody
// starts at once, clients that are sent away come back, with more work than before and
// in the end with pauses of a minute.
//
// It belongs to one server: pass [Door.Options] to grpc.NewServer and the door to
// [GRPC].
type Door struct {
	options DoorOptions
	refused *prometheus.CounterVec
	waited  prometheus.Counter
	failed  prometheus.Counter

	mu          sync.Mutex
	left        sync.Cond // a connection or a handshake has ended, or the door has closed
	closed      bool
	connections int
	handshakes  int
	calls       int
	sources     *recent.Map[netip.Prefix, *source]
}

// source is where connections come from.
type source struct {
	connections int
	handshakes  int
	opened      *rate.Limiter
}

// Why a [Door] stays shut, as the metric says it.
const (
	refusedSourceConnections = "source-connections"
	refusedSourceHandshakes  = "source-handshakes"
	refusedSourceRate        = "source-rate"
	refusedCalls             = "calls"
)

// NewDoor returns a door with nobody in it.
func NewDoor(o DoorOptions) *Door {
	o.Connections = cmp.Or(o.Connections, DefaultConnections)
	o.Handshakes = cmp.Or(o.Handshakes, DefaultHandshakes)
	o.SourceConnections = cmp.Or(o.SourceConnections, DefaultSourceConnections)
	o.SourceHandshakes = cmp.Or(o.SourceHandshakes, DefaultSourceHandshakes)
	o.SourceRate = cmp.Or(o.SourceRate, DefaultSourceRate)
	o.SourceBurst = cmp.Or(o.SourceBurst, DefaultSourceBurst)
	o.HandshakeTime = cmp.Or(o.HandshakeTime, DefaultHandshakeTime)
	o.Calls = cmp.Or(o.Calls, DefaultCalls)
	o.CallTime = cmp.Or(o.CallTime, DefaultCallTime)
	f := promauto.With(o.Metrics)
	d := &Door{
		options: o,
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_door_refused_total",
			Help: "Connections and calls that were turned away before anything was read of them, by the limit that was reached.",
		}, []string{"limit"}),
		waited: f.NewCounter(prometheus.CounterOpts{
			Name: "grpc_door_waits_total", Help: "Times that new connections had to wait because there were too many, or too many handshakes.",
		}),
		failed: f.NewCounter(prometheus.CounterOpts{
			Name: "grpc_door_handshake_failures_total", Help: "Connections that ended, or took too long, before TLS was established.",
		}),
		sources: recent.New[netip.Prefix, *source](sourcesKept),
	}
	d.left.L = &d.mu
	for _, limit := range []string{refusedSourceConnections, refusedSourceHandshakes, refusedSourceRate, refusedCalls} {
		d.refused.WithLabelValues(limit)
	}
	for _, g := range []struct {
		name, help string
		value      *int
	}{
		{"grpc_door_connections", "Open connections.", &d.connections},
		{"grpc_door_handshakes", "TLS handshakes under way.", &d.handshakes},
		{"grpc_door_calls", "Calls under way.", &d.calls},
	} {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, func() float64 {
			d.mu.Lock()
			defer d.mu.Unlock()
			return float64(*g.value)
		})
	}
	return d
}

// Options returns what the server behind the door is to be made with, its
// credentials among them.
func (d *Door) Options(c credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(guarded{c, d}),
		grpc.ConnectionTimeout(d.options.HandshakeTime),
		grpc.InTapHandle(d.call),
	}
}

// call lets a call begin, and limits the time that it may take: gRPC waits without
// end for a request that is announced and does not come. One too many has a moment
// instead: to refuse it here would leave its context behind for as long as its
// connection lives.
func (d *Door) call(ctx context.Context, _ *tap.Info) (context.Context, error) {
	d.mu.Lock()
	full := d.calls >= d.options.Calls
	if !full {
		d.calls++
	}
	d.mu.Unlock()
	span := d.options.CallTime
	if full {
		d.refused.WithLabelValues(refusedCalls).Inc()
		span = time.Millisecond
	}
	timed, cancel := context.WithTimeout(ctx, span)
	context.AfterFunc(ctx, func() { // gRPC cancels ctx when the call has ended
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		if !full {
			d.calls--
		}
	})
	return timed, nil
}

// listener is a listener behind a door.
type listener struct {
	net.Listener
	door *Door
}

// Accept returns the next connection that may come in.
func (l listener) Accept() (net.Conn, error) {
	for {
		l.door.wait()
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		v, limit := l.door.enter(c)
		if limit == "" {
			return v, nil
		}
		l.door.refused.WithLabelValues(limit).Inc()
		slam(c)
	}
}

// Close also ends a wait in Accept.
func (l listener) Close() error {
	l.door.mu.Lock()
	l.door.closed = true
	l.door.mu.Unlock()
	l.door.left.Broadcast()
	return l.Listener.Close()
}

// wait returns when there may be one more connection. It is for the one goroutine
// that accepts.
func (d *Door) wait() {
	d.mu.Lock()
	defer d.mu.Unlock()
	full := func() bool { return d.connections >= d.options.Connections || d.handshakes >= d.options.Handshakes }
	if full() {
		d.waited.Inc()
	}
	for full() && !d.closed {
		d.left.Wait()
	}
}

// slam closes a connection so that nothing of it lingers in the kernel.
func slam(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // it is going, one way or the other
	}
	_ = c.Close()
}

// enter counts a connection in, or names the limit that keeps it out.
func (d *Door) enter(c net.Conn) (v *visitor, limit string) {
	from := sourceOf(c.RemoteAddr())
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.sources.Get(from)
	if !ok {
		s = &source{opened: rate.NewLimiter(rate.Limit(d.options.SourceRate), d.options.SourceBurst)}
		d.sources.Put(from, s)
	}
	if s.connections >= share(d.options.SourceConnections, d.options.Connections, d.connections) {
		return nil, refusedSourceConnections
	}
	if s.handshakes >= share(d.options.SourceHandshakes, d.options.Handshakes, d.handshakes) {
		return nil, refusedSourceHandshakes
	}
	if !s.opened.Allow() {
		return nil, refusedSourceRate
	}
	d.connections++
	d.handshakes++
	s.connections++
	s.handshakes++
	return &visitor{Conn: c, door: d, from: s, shaking: true}, ""
}

// share is how many places of a room one source may have: the most in one that is empty,
// and less in proportion to what is left. The last place is for a source that has none.
func share(most, room, taken int) int {
	return max(1, (min(most, room)*(room-taken)+room-1)/room)
}

// sourceOf tells where an address counts as coming from. All whose address is none
// of IP are one source.
func sourceOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	return remote.Network(tcp.AddrPort().Addr())
}

// visitor is a connection that came in through a door.
type visitor struct {
	net.Conn
	door *Door
	from *source

	shaking, gone bool // guarded by door.mu
}

// shaken ends the handshake, and reports whether it had not ended before.
func (v *visitor) shaken() bool {
	v.door.mu.Lock()
	defer v.door.mu.Unlock()
	if !v.shaking {
		return false
	}
	v.shaking = false
	v.door.handshakes--
	v.from.handshakes--
	v.door.left.Signal()
	return true
}

// Close lets the next one in.
func (v *visitor) Close() error {
	if v.shaken() {
		v.door.failed.Inc()
	}
	v.door.mu.Lock()
	if !v.gone {
		v.gone = true
		v.door.connections--
		v.from.connections--
		v.door.left.Signal()
	}
	v.door.mu.Unlock()
	return v.Conn.Close()
}

// guarded are credentials that tell the door when a handshake has ended.
type guarded struct {
	credentials.TransportCredentials
	door *Door
}

func (g guarded) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := g.TransportCredentials.ServerHandshake(c)
	if v, ok := c.(*visitor); ok && err == nil {
		v.shaken()
	}
	return secure, info, err
}

func (g guarded) Clone() credentials.TransportCredentials {
	return guarded{g.TransportCredentials.Clone(), g.door}
}
