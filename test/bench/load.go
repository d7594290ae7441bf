package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// load says how much is asked of a server in one window.
type load struct {
	clients int
	span    time.Duration
	limit   int // at most so many requests over all clients
}

// call sends the n-th request of a client and checks its answer.
type call func(ctx context.Context, client, n int) error

// outcome is what the clients saw in one window.
type outcome struct {
	took      time.Duration
	latencies []time.Duration // sorted; one per request
}

func (o outcome) requests() int { return len(o.latencies) }

// rate is requests per second.
func (o outcome) rate() float64 { return float64(o.requests()) / o.took.Seconds() }

// quantile returns the latency that the share q of all requests did not exceed.
func (o outcome) quantile(q float64) time.Duration {
	if len(o.latencies) == 0 {
		return 0
	}
	return o.latencies[min(int(q*float64(len(o.latencies))), len(o.latencies)-1)]
}

// run keeps all clients busy until the span or the limit is used up: each sends its
// next request when the answer to the last one is there. The first answer that is
// not right ends the run, for then the server does other work than was to be
// measured.
func (l load) run(ctx context.Context, do call) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	begin := time.Now()
	end := begin.Add(l.span)
	each := make([][]time.Duration, l.clients)
	var wg sync.WaitGroup
	for client := range l.clients {
		wg.Go(func() {
			for n := 0; n < l.limit/l.clients; n++ {
				sent := time.Now()
				if ctx.Err() != nil || sent.After(end) {
					return
				}
				if err := do(ctx, client, n); err != nil {
					cancel(err)
					return
				}
				each[client] = append(each[client], time.Since(sent))
			}
		})
	}
	wg.Wait()
	o := outcome{took: time.Since(begin), latencies: slices.Concat(each...)}
	slices.Sort(o.latencies)
	return o, context.Cause(ctx)
}

// steady sends so many requests at a rate a second, whether or not the earlier ones
// are answered. The first answer that is not right ends it.
func steady(ctx context.Context, rate, count int, do call) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	latencies := make([]time.Duration, count)
	begin := time.Now()
	var wg sync.WaitGroup
	for n := range count {
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			sent := time.Now()
			if err := do(ctx, 0, n); err != nil {
				cancel(err)
			}
			latencies[n] = time.Since(sent)
		})
		<-tick.C
	}
	wg.Wait()
	o := outcome{took: time.Since(begin), latencies: latencies}
	slices.Sort(o.latencies)
	return o, context.Cause(ctx)
}
