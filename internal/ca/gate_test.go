package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/garrison-mesh/garrison/internal/identity"
)

// entrants go through a gate side by side and write down who got a turn when.
type entrants struct {
	t     *testing.T
	gate  *Gate
	sleep identity.ID
	wg    sync.WaitGroup

	mu    sync.Mutex
	turns []string
	busy  map[string]*Busy
	gone  map[string]error
}

func newEntrants(t *testing.T, o GateOptions) *entrants {
	t.Helper()
	id, err := identity.Parse(sleepID)
	if err != nil {
		t.Fatal(err)
	}
	return &entrants{t: t, gate: NewGate(o), sleep: id, busy: map[string]*Busy{}, gone: map[string]error{}}
}

// enter sends a pod in, and lets it keep its slot for a second.
func (e *entrants) enter(ctx context.Context, pod string, expires time.Time) {
	e.wg.Go(func() {
		leave, err := e.gate.Enter(ctx, e.sleep, pod, expires)
		e.mu.Lock()
		switch busy, ok := errors.AsType[*Busy](err); {
		case ok:
			e.busy[pod] = busy
		case err != nil:
			e.gone[pod] = err
		default:
			e.turns = append(e.turns, pod)
		}
		e.mu.Unlock()
		if err == nil {
			time.Sleep(time.Second)
			leave()
			leave() // as a deferred call beside an explicit one would
		}
	})
	synctest.Wait() // it is in, or in line, before the next one comes
}

// guess makes the gate believe that a turn takes so long.
func (e *entrants) guess(d time.Duration) {
	e.gate.mu.Lock()
	defer e.gate.mu.Unlock()
	e.gate.held = d
}

func (e *entrants) expectTurns(want ...string) {
	e.t.Helper()
	e.wg.Wait()
	if !slices.Equal(e.turns, want) {
		e.t.Errorf("turns of %q, want %q", e.turns, want)
	}
	e.gate.mu.Lock()
	defer e.gate.mu.Unlock()
	if e.gate.taken != 0 || e.gate.room.len() != 0 {
		e.t.Errorf("%d slots taken and %d waiting at the end", e.gate.taken, e.gate.room.len())
	}
}

func (e *entrants) expectBusy(pod, reason string) {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if b := e.busy[pod]; b == nil || b.reason != reason || b.After < leastHint || b.After > mostHint*3/2 {
		e.t.Errorf("%s: %+v, want busy (%s)", pod, b, reason)
	}
}

// Who holds a certificate that ends soon goes first, whether the caller shows it or
// the gate remembers it; between them go those who have none.
func TestGateServesWhatEndsSoonestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEntrants(t, GateOptions{Slots: 1})
		in := func(d time.Duration) time.Time { return time.Now().Add(d) }
		e.gate.Issued(e.sleep, "remembered", in(time.Minute))
		e.gate.Issued(e.sleep, "ended", in(-time.Minute))
		e.enter(t.Context(), "busy", time.Time{})
		for pod, expires := range map[string]time.Time{"noon": in(12 * time.Hour), "hour": in(time.Hour)} {
			e.enter(t.Context(), pod, expires)
		}
		for _, pod := range []string{"new 1", "remembered", "new 2", "ended", "new 3"} {
			e.enter(t.Context(), pod, time.Time{})
		}
		e.expectTurns("busy", "ended", "new 1", "remembered", "new 2", "hour", "new 3", "noon")
		if e.gate.held < 300*time.Millisecond || e.gate.held > time.Second {
			t.Errorf("after eight turns of a second a turn is thought to take %v", e.gate.held)
		}
	})
}

// In a full room the sooner end takes the place of the latest, and each kind has its
// half for itself.
func TestGateFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEntrants(t, GateOptions{Slots: 1, Waiting: 4})
		in := func(d time.Duration) time.Time { return time.Now().Add(d) }
		e.enter(t.Context(), "busy", time.Time{})
		for _, pod := range []string{"1", "2", "3", "4", "5"} {
			e.enter(t.Context(), pod, time.Time{})
		}
		e.expectBusy("5", busyFull)
		e.enter(t.Context(), "noon", in(12*time.Hour))
		e.expectBusy("4", busyFull)
		e.enter(t.Context(), "hour", in(time.Hour))
		e.expectBusy("3", busyFull)
		e.enter(t.Context(), "day", in(24*time.Hour))
		e.expectBusy("day", busyFull)
		e.enter(t.Context(), "minute", in(time.Minute))
		e.expectBusy("noon", busyFull)
		e.expectTurns("busy", "minute", "1", "hour", "2")
	})
}

// Whose turn cannot come in time is told at once, and whose turn comes too late for
// the work is not given it; a turn that was given up goes to the next.
func TestGateDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEntrants(t, GateOptions{Slots: 1})
		within := func(d time.Duration) context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			t.Cleanup(cancel)
			return ctx
		}
		e.guess(time.Second)
		e.enter(t.Context(), "busy", time.Time{})
		e.enter(within(1500*time.Millisecond), "cannot", time.Time{})
		e.expectBusy("cannot", busyLate)
		e.guess(time.Millisecond) // a wrong guess
		e.enter(within(500*time.Millisecond), "ends", time.Time{})
		ctx, hangUp := context.WithCancel(t.Context())
		e.enter(ctx, "hangs up", time.Time{})
		e.enter(t.Context(), "next", time.Time{})
		time.Sleep(600 * time.Millisecond)
		e.expectBusy("ends", busyLate)
		hangUp()
		e.expectTurns("busy", "next")
		if err := e.gone["hangs up"]; !errors.Is(err, context.Canceled) {
			t.Errorf("who hung up got %v", err)
		}
		e.turns = nil
		e.enter(t.Context(), "busy", time.Time{})
		e.guess(time.Millisecond)
		e.enter(within(1100*time.Millisecond), "too short", time.Time{})
		e.guess(time.Second)
		time.Sleep(1001 * time.Millisecond)
		e.expectBusy("too short", busyLate)
		e.guess(10 * time.Second) // a stall that is over must not keep the gate shut
		e.enter(within(5*time.Second), "after", time.Time{})
		e.expectTurns("busy", "after")
	})
}

// The slots that callers hang up on at the very moment of their turn are not lost.
func TestGateKeepsItsSlotsWhenCallersHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEntrants(t, GateOptions{Slots: 2})
		for n := range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+n%7)*time.Second)
			defer cancel()
			e.guess(time.Millisecond) // so that none is refused beforehand
			e.enter(ctx, fmt.Sprint(n), time.Time{})
		}
		e.wg.Wait()
		if got := len(e.turns) + len(e.busy) + len(e.gone); got != 200 || len(e.turns) < 10 || len(e.busy) < 10 {
			t.Errorf("%d turns, %d busy, %d gone", len(e.turns), len(e.busy), len(e.gone))
		}
		e.gate.slots = 1 // nobody is in
		for range 100 {  // of whose last two things one is seen first, by chance
			leave, err := e.gate.Enter(t.Context(), e.sleep, "holds", time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, hangUp := context.WithCancel(t.Context())
			e.enter(ctx, "hangs up", time.Time{})
			hangUp()
			leave()
			e.wg.Wait()
			time.Sleep(time.Minute) // until the buckets are full
		}
		e.expectTurns(e.turns...)
	})
}

// One pod in a loop uses up its own bucket; other pods of its account, and a whole
// Deployment that starts at once, have theirs. Who is refused gets in after the hint.
func TestGateBuckets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		e := newEntrants(t, GateOptions{Slots: 1000, Rate: 1000, Metrics: registry})
		enter := func(pod string) (hint time.Duration) {
			leave, err := e.gate.Enter(t.Context(), e.sleep, pod, time.Time{})
			if err == nil {
				leave()
				return 0
			}
			busy, ok := errors.AsType[*Busy](err)
			if !ok {
				t.Fatal(err)
			}
			return busy.After
		}
		loop := func(pod string, want int) {
			t.Helper()
			n := 0
			for enter(pod) == 0 {
				n++
			}
			if n != want {
				t.Errorf("pod %q got %d turns at once, want %d", pod, n, want)
			}
		}
		loop("loops", DefaultCallerBurst)
		time.Sleep(enter("loops"))
		loop("loops", 1)
		for replica := range 500 {
			if enter(fmt.Sprint(replica)) != 0 {
				t.Fatalf("replica %d of the same account was refused", replica)
			}
		}
		time.Sleep(time.Second)
		loop("", podless*DefaultCallerBurst)
		time.Sleep(time.Second)
		for n := range 2000 {
			enter(fmt.Sprint("pod", n))
		}
		if hint := enter("last"); hint == 0 || hint > time.Second {
			t.Errorf("beyond everybody's rate: come back in %v", hint)
		}
		expectSamples(t, registry, `
# HELP citadel_csr_refused_total Requests told to come back later, by reason: the caller's rate, everybody's rate, no place to wait, or too late for the caller's deadline.
# TYPE citadel_csr_refused_total counter
citadel_csr_refused_total{reason="caller"} 4
citadel_csr_refused_total{reason="deadline"} 0
citadel_csr_refused_total{reason="full"} 0
citadel_csr_refused_total{reason="rate"} 1001
# HELP citadel_csr_queue_length Requests that wait to be signed, by whether the caller holds a certificate.
# TYPE citadel_csr_queue_length gauge
citadel_csr_queue_length{kind="newcomer"} 0
citadel_csr_queue_length{kind="renewal"} 0
`)
	})
}

func expectSamples(t *testing.T, g prometheus.Gatherer, want string) {
	t.Helper()
	if err := testutil.GatherAndCompare(g, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// What is remembered of callers is bounded, whoever asks.
func TestGateForgets(t *testing.T) {
	e := newEntrants(t, GateOptions{})
	for n := range 3 * callersKept {
		e.gate.Issued(e.sleep, fmt.Sprint(n), time.Now())
	}
	if n := e.gate.callers.Len(); n < callersKept || n > 2*callersKept {
		t.Errorf("%d callers remembered, want %d to %d", n, callersKept, 2*callersKept)
	}
}

// Agents send ResourceExhausted again; those that read hints find one.
func TestBusyOnTheWire(t *testing.T) {
	s := status.Convert(fmt.Errorf("gate: %w", &Busy{After: 3 * time.Second, reason: busyFull}))
	if s.Code() != codes.ResourceExhausted || len(s.Details()) != 1 {
		t.Fatalf("%v %v", s, s.Details())
	}
	if info, ok := s.Details()[0].(*errdetails.RetryInfo); !ok || info.RetryDelay.AsDuration() != 3*time.Second {
		t.Errorf("details %v", s.Details())
	}
}

func TestPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		p := newPhases(registry)
		at := p.start()
		for i := phaseAuthenticate; i <= phaseRecord; i++ {
			time.Sleep(time.Duration(i+1) * time.Second)
			at = p.observe(i, at)
		}
		families, err := registry.Gather()
		if err != nil || len(families) != 1 {
			t.Fatal(families, err)
		}
		got := map[string]float64{}
		for _, m := range families[0].Metric {
			got[m.Label[0].GetValue()] = m.Histogram.GetSampleSum()
		}
		for name, want := range map[string]float64{"authenticate": 1, "queue": 2, "sign": 3, "record": 4} {
			if got[name] != want {
				t.Errorf("%s took %v s, want %v", name, got[name], want)
			}
		}
	})
}

// Whoever has gone before its turn takes none, and what nobody used tells nothing of how
// long a turn takes.
func TestGateOfThoseWhoHaveGone(t *testing.T) {
	id := mustID(t, sleepID)
	g := NewGate(GateOptions{CallerBurst: 1})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		if _, err := g.Enter(gone, id, "p1", time.Time{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("entered after it had gone: %v", err)
		}
	}
	held := g.held
	leave, err := g.Enter(t.Context(), id, "p1", time.Time{})
	if err != nil {
		t.Fatalf("nothing was taken: %v", err)
	}
	defer leave()
	g.taken++
	if g.leave(0); g.held != held || g.taken != 1 {
		t.Errorf("a turn takes %v, was %v; %d taken", g.held, held, g.taken)
	}
}
