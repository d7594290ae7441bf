package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"
	corev1 "k8s.io/api/core/v1"
)

// processGoals are those of one call of the handler, by pod.
func processGoals() map[string]measured {
	return map[string]measured{
		podSimple:        {cpu: 0.2, allocs: 500},
		"variables-2000": {cpu: 2},
	}
}

// process measures reviews and issues without any network: CPU time and allocations,
// beside the same for the floors.
func (b bench) process(context.Context) error {
	testing.Init() // brings the flag that says how long a benchmark runs
	if err := flag.Set("test.benchtime", b.plan.benchtime); err != nil {
		return err
	}
	return errors.Join(b.handler(), b.issues())
}

// measured is something to be called over and over, with the goals of one call.
type measured struct {
	name   string
	call   func() error
	cpu    float64 // ms; 0: none
	allocs float64 // 0: none
}

// handler measures the injector's whole handler beside decoding nothing but the pod:
// with the pods of the mix, with what some pods ask for besides, with a pod that was
// injected before, and with pods that grow.
func (b bench) handler() error {
	handler, err := injectorHandler(discard())
	if err != nil {
		return err
	}
	mix, err := reviews()
	if err != nil {
		return err
	}
	others, err := otherReviews()
	if err != nil {
		return err
	}
	again, err := injectedReview(handler, mix[0])
	if err != nil {
		return err
	}
	var all []measured
	for _, r := range mix {
		all = append(all, measured{name: "process." + r.name + ".decode", call: func() error {
			return json.Unmarshal(r.pod, new(corev1.Pod))
		}})
	}
	goals := processGoals()
	for _, r := range slices.Concat(mix, others, []review{again}) {
		h, err := newHandled(handler, r)
		if err != nil {
			return err
		}
		m := goals[r.name]
		m.name, m.call = handlerName(r.name), h.expect(r.name != again.name)
		all = append(all, m)
	}
	spent, err := b.functions(all)
	if err != nil {
		return err
	}
	for _, g := range growths() {
		b.report(figure{
			name:   fmt.Sprintf("process.%s.growth-%d-to-%d", g.of, g.from, g.to),
			values: ratios(spent[handlerName(g.name(g.to))], spent[handlerName(g.name(g.from))]),
			unit:   "x", goal: float64(g.to) / float64(g.from),
		})
	}
	return nil
}

func handlerName(pod string) string { return "process." + pod + ".handler" }

func (b bench) issues() error {
	requests, err := newRequests(cartURI())
	if err != nil {
		return err
	}
	floor, err := newFloorCA(time.Now())
	if err != nil {
		return err
	}
	citadel, err := newCitadel(discard(), anybody, time.Now())
	if err != nil {
		return err
	}
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("authorization", "Bearer "+caToken))
	var all []measured
	for _, c := range []struct {
		role    string
		service securityapi.IstioCertificateServiceServer
	}{{roleFloorCA, floor}, {roleCitadel, citadel}} {
		n := 0
		all = append(all, measured{name: "process." + c.role + ".issue", call: func() error {
			r := requests[n%len(requests)]
			n++
			answer, err := c.service.CreateCertificate(ctx, r.message())
			if err == nil && n == 1 {
				err = checkChain(r, answer.GetCertChain())
			}
			return err
		}})
	}
	spent, err := b.functions(all)
	if err != nil {
		return err
	}
	b.report(figure{name: "process.ca.ratio", values: ratios(spent[all[1].name], spent[all[0].name]), unit: "x", goal: issueGoal})
	return nil
}

// functions calls everything in turn, over and over, and reports what one call takes:
// CPU time, the collection of its garbage included, and allocations. It returns the CPU
// times in ms by name.
func (b bench) functions(all []measured) (map[string][]float64, error) {
	spent := make(map[string][]float64)
	last := make(map[string]testing.BenchmarkResult)
	for range b.plan.processRepeats {
		for _, m := range all {
			took, result, err := benchmark(m.call)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			spent[m.name] = append(spent[m.name], took.Seconds()*1000/float64(result.N))
			last[m.name] = result
		}
	}
	for _, m := range all {
		b.report(
			figure{name: m.name + ".cpu", values: spent[m.name], unit: "ms", goal: m.cpu},
			figure{name: m.name + ".allocs", values: []float64{float64(last[m.name].AllocsPerOp())}, unit: "allocs", goal: m.allocs},
			figure{name: m.name + ".memory", values: []float64{float64(last[m.name].AllocedBytesPerOp())}, unit: "bytes"},
		)
	}
	return spent, nil
}

// benchmark calls f for a while and returns the CPU time that all calls took.
func benchmark(f func() error) (spent time.Duration, result testing.BenchmarkResult, err error) {
	result = testing.Benchmark(func(t *testing.B) {
		before, e := ownCPU()
		if e != nil {
			err = e
			t.FailNow()
		}
		for t.Loop() {
			if err = f(); err != nil {
				t.FailNow()
			}
		}
		after, e := ownCPU()
		spent, err = after-before, e
	})
	if err == nil && result.N == 0 {
		err = errors.New("did not run")
	}
	return spent, result, err
}

// discard is a log that costs what formatting costs.
func discard() *slog.Logger { return slog.New(slog.NewJSONHandler(io.Discard, nil)) }
