package main

import (
	"context"
	"slices"
	"time"
)

// contender is a server under a load of its own.
type contender struct {
	server *server
	call   call
}

// rounds measures the contenders in turn, over and over, so that a busy moment of
// the machine hits them alike; the samples come back by role, one for each repeat.
// A window before the first one is thrown away: connections, pools and heaps are
// made in it.
func rounds(ctx context.Context, repeats int, l load, contenders ...contender) (map[string][]sample, error) {
	samples := make(map[string][]sample)
	for i := range repeats + 1 {
		window := l
		if i == 0 {
			window.span = min(l.span, time.Second)
		}
		for _, c := range contenders {
			s, err := c.server.measure(ctx, window, c.call)
			if err != nil {
				return nil, err
			}
			if i > 0 {
				samples[c.server.role] = append(samples[c.server.role], s)
			}
		}
	}
	return samples, nil
}

// values picks one figure out of each sample.
func values(samples []sample, pick func(sample) float64) []float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = pick(s)
	}
	return v
}

func cpu(s sample) float64 { return s.cpu }

// standard gives the figures that every server has. goal is that of its CPU time in
// ms; 0: none.
func standard(prefix string, samples []sample, goal float64) []figure {
	latency := func(q float64) []float64 {
		return values(samples, func(s sample) float64 { return s.quantile(q).Seconds() * 1000 })
	}
	rss := values(samples, func(s sample) float64 { return float64(s.rss) / (1 << 20) })
	return []figure{
		{name: prefix + ".cpu", values: values(samples, cpu), unit: "ms", goal: goal},
		{name: prefix + ".rate", values: values(samples, sample.rate), unit: "/s"},
		{name: prefix + ".p50", values: latency(0.50), unit: "ms"},
		{name: prefix + ".p99", values: latency(0.99), unit: "ms"},
		{name: prefix + ".rss", values: []float64{slices.Max(rss)}, unit: "MiB"},
	}
}
