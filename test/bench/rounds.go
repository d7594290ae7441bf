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

func p50(s sample) float64 { return s.quantile(0.50).Seconds() * 1000 }

func p99(s sample) float64 { return s.quantile(0.99).Seconds() * 1000 }

// hopes are goals of the figures that every server has; 0: none.
type hopes struct {
	cpu, p99 float64 // ms
	rss      float64 // MiB
}

// standard gives the figures that every server has.
func standard(prefix string, samples []sample, goals hopes) []figure {
	rss := values(samples, func(s sample) float64 { return float64(s.rss) / (1 << 20) })
	return []figure{
		{name: prefix + ".cpu", values: values(samples, cpu), unit: "ms", goal: goals.cpu},
		{name: prefix + ".rate", values: values(samples, sample.rate), unit: "/s"},
		{name: prefix + ".p50", values: values(samples, p50), unit: "ms"},
		{name: prefix + ".p99", values: values(samples, p99), unit: "ms", goal: goals.p99},
		{name: prefix + ".rss", values: []float64{slices.Max(rss)}, unit: "MiB", goal: goals.rss},
	}
}
