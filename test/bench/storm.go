package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/garrison-mesh/garrison/test/exposition"
)

// Goals of a storm: when the last agent has its certificate, in s, and what the server
// may take of memory for it, in MiB, which is the limit in its manifest.
const (
	stormGoal       = 60
	stormMemoryGoal = 512
)

const (
	stormBound = 15 * time.Minute // after which a storm has failed
	// One agent in stormRenewals holds a certificate of which stormLeft is left when the
	// storm begins, and asks for the next in its midst.
	stormRenewals = 50
	stormLeft     = 90 * time.Second
	stormMidst    = 10 * time.Second
	// stormAtOnce is how many agents ask at a time. The others wait for them, which is
	// part of their wait: more than that, and it is this process that is measured.
	stormAtOnce = 1000
)

// storm is what came of many agents that start at once.
type storm struct {
	took     time.Duration   // until the last had its certificate
	waits    []time.Duration // of each, sorted
	renewals []time.Duration // the same, of those who held one
	asked    int             // requests and attempts at one, of all
	cpu      time.Duration   // of the server
	memory   int             // the most that it had resident, in bytes
	metrics  []byte          // of the server, afterwards
}

// storm measures the real Citadel with its default limits while agents of so many
// pods start at once, each with a connection and an address of its own.
func (b bench) storm(ctx context.Context) (err error) {
	c, stop, err := b.startCitadel(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	s, err := c.storm(ctx, b.plan.agents)
	if err != nil {
		return err
	}
	seconds := func(d time.Duration) []float64 { return []float64{d.Seconds()} }
	waits, renewals := outcome{latencies: s.waits}, outcome{latencies: s.renewals}
	b.report(
		figure{name: "storm.agents", values: []float64{float64(len(s.waits))}, unit: "agents"},
		figure{name: "storm.all", values: seconds(s.took), unit: "s", goal: stormGoal},
		figure{name: "storm.p50", values: seconds(waits.quantile(0.50)), unit: "s"},
		figure{name: "storm.p99", values: seconds(waits.quantile(0.99)), unit: "s"},
		figure{name: "storm.renewals", values: []float64{float64(len(s.renewals))}, unit: "agents"},
		figure{name: "storm.renewal.p50", values: seconds(renewals.quantile(0.50)), unit: "s"},
		figure{name: "storm.renewal.max", values: seconds(renewals.quantile(1)), unit: "s", goal: stormLeft.Seconds() / 2},
		figure{name: "storm.requests", values: []float64{float64(s.asked) / float64(len(s.waits)+len(s.renewals))}, unit: "per-agent"},
		figure{name: "storm.cpu", values: []float64{s.cpu.Seconds() * 1000 / float64(len(s.waits))}, unit: "ms-per-agent"},
		figure{name: "storm.memory", values: []float64{float64(s.memory) / (1 << 20)}, unit: "MiB", goal: stormMemoryGoal},
	)
	for _, name := range []string{"grpc_door_refused_total", "grpc_door_waits_total", "citadel_csr_refused_total"} {
		b.report(figure{name: "storm." + name, values: []float64{exposition.Sum(s.metrics, name)}, unit: "times"})
	}
	return nil
}

// storm lets so many agents start at once.
func (c *citadel) storm(ctx context.Context, count int) (s storm, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stormBound, fmt.Errorf("the storm is not over after %v", stormBound))
	defer cancel()
	renewing := max(1, count/stormRenewals)
	tokens, err := c.mint.tokens(ctx, count+renewing)
	if err != nil {
		return s, fmt.Errorf("tokens: %w", err)
	}
	requests, err := newRequests(cartURI())
	if err != nil {
		return s, err
	}
	all := make([]*agent, len(tokens))
	for i, token := range tokens { // Linux has all of 127.0.0.0/8
		all[i] = &agent{server: c.server, token: token, from: net.IPv4(127, byte(1+i>>16), byte(i>>8), byte(i))}
		defer all[i].close()
	}
	starting, holding := all[:count], all[count:]
	for i, a := range holding {
		if _, err := a.certify(ctx, requests[i%len(requests)], stormLeft); err != nil {
			return s, fmt.Errorf("before the storm: %w", err)
		}
	}
	before, err := c.usage()
	if err != nil {
		return s, err
	}
	s.waits, s.renewals = make([]time.Duration, len(starting)), make([]time.Duration, len(holding))
	var (
		wg    sync.WaitGroup
		asked atomic.Int64
		mu    sync.Mutex
		errs  []error
		turn  = make(chan struct{}, stormAtOnce)
	)
	start := func(a *agent, r request, after time.Duration, wait *time.Duration) {
		wg.Go(func() {
			rest(ctx, after)
			begin := time.Now()
			if after == 0 {
				turn <- struct{}{}
				defer func() { <-turn }()
			}
			n, err := a.certify(ctx, r, caTTL*time.Second)
			*wait = time.Since(begin)
			asked.Add(int64(n))
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	begin := time.Now()
	for i, a := range starting {
		start(a, requests[i%len(requests)], 0, &s.waits[i])
	}
	for i, a := range holding {
		after := stormMidst * time.Duration(i+1) / time.Duration(len(holding))
		start(a, requests[i%len(requests)], after, &s.renewals[i])
	}
	wg.Wait()
	s.took, s.asked = time.Since(begin), int(asked.Load())
	if len(errs) > 0 {
		return s, fmt.Errorf("%d of %d agents have no certificate, the first because %w", len(errs), len(all), errs[0])
	}
	slices.Sort(s.waits)
	slices.Sort(s.renewals)
	after, err := c.usage()
	if err != nil {
		return s, err
	}
	s.cpu = after.cpu - before.cpu
	if s.memory, err = c.peak(); err != nil {
		return s, err
	}
	s.metrics, err = c.read(ctx, "/metrics")
	return s, err
}

// read reads a page of the admin endpoint.
func (s *started) read(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
