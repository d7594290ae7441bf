package ca

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/recent"
)

// Defaults of [GateOptions].
const (
	DefaultWaiting     = 4096
	DefaultRate        = 5000
	DefaultCallerRate  = 1
	DefaultCallerBurst = 30

	callersKept = 32 << 10
	// podless is how many pods a caller without one stands for: all virtual
	// machines of an account share one bucket.
	podless = 10
)

// Bounds of the hint in [Busy]. Agents that ignore it begin at 100 ms.
const (
	leastHint = 100 * time.Millisecond
	mostHint  = 30 * time.Second
)

// GateOptions are the settings of a [Gate]. Zero values mean defaults.
type GateOptions struct {
	Slots       int     // certificates made at a time: two for each processor, as some wait for the disk
	Waiting     int     // requests that wait for a slot: [DefaultWaiting]
	Rate        float64 // requests a second, of all callers, and at once: [DefaultRate]
	CallerRate  float64 // requests a second, of one pod: [DefaultCallerRate]
	CallerBurst int     // requests of one pod at once: [DefaultCallerBurst]

	Metrics prometheus.Registerer // nothing can read them
}

// Gate bounds the work of issuing: so many certificates are made at a time, so
// many requests wait for their turn, and the rest are told at once to come back.
//
// Two kinds wait. Those who hold a certificate go by its end, the soonest first;
// newcomers, who hold none, go in the order in which they came. While both wait
// they take turns, and half of the waiting room is each kind's own, so that no
// storm of one shuts out the other. In a full room the sooner end takes the place
// of the latest. What a caller holds is known from its client certificate, else from
// what this replica issued lately; a restart makes newcomers of all.
//
// Ahead of that every caller has a bucket of requests, and there is one for all. A
// caller is an identity and a pod: a Deployment of many replicas starts under one
// identity and each replica is owed a certificate, while a replica that asks in a
// loop uses up nobody's bucket but its own.
type Gate struct {
	slots   int
	options GateOptions
	refused *prometheus.CounterVec

	mu      sync.Mutex
	room    room
	taken   int           // slots
	held    time.Duration // for how long a slot is held, lately
	all     *rate.Limiter
	callers *recent.Map[callerKey, *callerState]
}

type callerKey struct {
	who identity.ID
	pod string
}

type callerState struct {
	bucket   *rate.Limiter
	notAfter time.Time // of the last certificate issued here
}

// Why [Gate.Enter] refuses, as the metric says it.
const (
	busyCaller = "caller"   // the caller's bucket is empty
	busyRate   = "rate"     // everybody's is
	busyFull   = "full"     // no place to wait
	busyLate   = "deadline" // the turn would come too late
)

// Busy says that a request may be sent again, but not before After has passed. It
// is no fault of the request.
type Busy struct {
	After  time.Duration
	reason string
}

func (b *Busy) Error() string { return fmt.Sprintf("busy (%s): come back in %v", b.reason, b.After) }

// GRPCStatus makes it ResourceExhausted, which agents send again, with the hint
// as google.rpc.RetryInfo.
func (b *Busy) GRPCStatus() *status.Status {
	s := status.New(codes.ResourceExhausted, "the certificate authority is busy")
	if detailed, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(b.After)}); err == nil {
		return detailed
	}
	return s
}

// NewGate returns an open gate.
func NewGate(o GateOptions) *Gate {
	o.Slots = cmp.Or(o.Slots, 2*runtime.GOMAXPROCS(0))
	o.Waiting = cmp.Or(o.Waiting, DefaultWaiting)
	o.Rate = cmp.Or(o.Rate, DefaultRate)
	o.CallerRate = cmp.Or(o.CallerRate, DefaultCallerRate)
	o.CallerBurst = cmp.Or(o.CallerBurst, DefaultCallerBurst)
	f := promauto.With(o.Metrics)
	g := &Gate{
		slots:   o.Slots,
		options: o,
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "citadel_csr_refused_total",
			Help: "Requests told to come back later, by reason: the caller's rate, everybody's rate, no place to wait, or too late for the caller's deadline.",
		}, []string{"reason"}),
		room:    room{places: o.Waiting},
		held:    time.Millisecond, // until the first has left
		all:     rate.NewLimiter(rate.Limit(o.Rate), int(max(1, o.Rate))),
		callers: recent.New[callerKey, *callerState](callersKept),
	}
	for _, reason := range []string{busyCaller, busyRate, busyFull, busyLate} {
		g.refused.WithLabelValues(reason)
	}
	for kind, l := range map[string]*line{"renewal": &g.room.renewals, "newcomer": &g.room.newcomers} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "citadel_csr_queue_length", Help: "Requests that wait to be signed, by whether the caller holds a certificate.",
			ConstLabels: prometheus.Labels{"kind": kind},
		}, func() float64 {
			g.mu.Lock()
			defer g.mu.Unlock()
			return float64(len(*l))
		})
	}
	return g
}

// Issued remembers until when the certificate lives that a caller was given. pod is
// the UID of its pod, "" where it has none.
func (g *Gate) Issued(who identity.ID, pod string, notAfter time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.caller(callerKey{who, pod}).notAfter = notAfter
}

// Enter waits for a turn, which lasts until leave is called. pod is the UID of the
// caller's pod, "" where it has none; expires is the end of the certificate that the
// caller holds, zero where not known. Errors are [Busy], and that of ctx where
// the caller has gone. A caller whose turn cannot come before ctx's deadline is
// told so at once.
func (g *Gate) Enter(ctx context.Context, who identity.ID, pod string, expires time.Time) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	w, err := g.line(callerKey{who, pod}, expires, deadline)
	if err != nil {
		return nil, err
	}
	select {
	case err = <-w.verdict:
	case <-ctx.Done():
		if err = g.withdraw(w); err == nil { // its turn had just come
			g.leave(0)
		}
		if err = ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
			g.mu.Lock()
			defer g.mu.Unlock()
			err = g.busy(busyLate, g.drain())
		}
	}
	if err != nil {
		return nil, err
	}
	began := time.Now()
	return sync.OnceFunc(func() { g.leave(time.Since(began)) }), nil
}

// line gives a caller a slot, a place to wait, or neither.
func (g *Gate) line(key callerKey, expires, deadline time.Time) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	caller := g.caller(key)
	if wait := untilToken(caller.bucket, now); wait > 0 {
		return nil, g.busy(busyCaller, wait)
	}
	if wait := untilToken(g.all, now); wait > 0 {
		return nil, g.busy(busyRate, wait)
	}
	if expires.IsZero() {
		expires = caller.notAfter
	}
	w := &waiter{expires: expires, deadline: deadline, verdict: make(chan error, 1)}
	if g.taken < g.slots { // then nobody waits
		g.taken++
		w.verdict <- nil
	} else {
		if wait := g.wait(g.room.ahead(w)); w.late(now.Add(wait)) {
			return nil, g.busy(busyLate, wait)
		}
		loser := g.room.add(w)
		if loser == w {
			return nil, g.busy(busyFull, g.drain())
		}
		if loser != nil {
			loser.verdict <- g.busy(busyFull, g.drain())
		}
	}
	// Only now, as to be refused costs the caller nothing it would need when it comes back.
	caller.bucket.AllowN(now, 1)
	g.all.AllowN(now, 1)
	return w, nil
}

// withdraw takes a caller out of the line. Had it left that already, the result is
// the verdict that it got.
func (g *Gate) withdraw(w *waiter) error {
	g.mu.Lock()
	waiting := g.room.remove(w)
	g.mu.Unlock()
	if waiting {
		return context.Canceled
	}
	return <-w.verdict
}

// leave frees a slot that was held for a time, 0 where it was not used, and gives it
// to the next in line.
func (g *Gate) leave(held time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if held > 0 {
		g.held += (held - g.held) / 16
	}
	g.taken--
	now := time.Now()
	for g.taken < g.slots {
		w := g.room.next()
		if w == nil {
			return
		}
		if w.late(now.Add(g.held)) {
			w.verdict <- g.busy(busyLate, g.drain())
			continue
		}
		g.taken++
		w.verdict <- nil
	}
}

// caller returns what is known of a caller.
func (g *Gate) caller(key callerKey) *callerState {
	if c, ok := g.callers.Get(key); ok {
		return c
	}
	limit, burst := rate.Limit(g.options.CallerRate), g.options.CallerBurst
	if key.pod == "" {
		limit, burst = limit*podless, burst*podless
	}
	c := &callerState{bucket: rate.NewLimiter(limit, burst)}
	g.callers.Put(key, c)
	return c
}

// busy counts a refusal. The hint is spread, so that those who are refused together
// do not come back together.
func (g *Gate) busy(reason string, after time.Duration) *Busy {
	g.refused.WithLabelValues(reason).Inc()
	after = min(max(after, leastHint), mostHint)
	return &Busy{After: after + rand.N(after/2), reason: reason} //nolint:gosec // it spreads load and hides nothing
}

// wait estimates how long those take who are ahead of a caller, and it itself.
func (g *Gate) wait(ahead int) time.Duration {
	return g.held * time.Duration(ahead/g.slots+2) // those in the slots, those ahead, its own turn
}

// drain estimates how long all take who are waiting.
func (g *Gate) drain() time.Duration { return g.wait(g.room.len()) }

// untilToken returns how long it takes until a bucket holds one.
func untilToken(b *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - b.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing/float64(b.Limit())*float64(time.Second)) + 1
}
