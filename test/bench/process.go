package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/admission"
)

// process measures one injection and one issue without any network: CPU time
// and allocations, beside the same for the floors.
func (b bench) process(context.Context) error {
	testing.Init() // brings the flag that says how long a benchmark runs
	if err := flag.Set("test.benchtime", b.plan.benchtime); err != nil {
		return err
	}
	return errors.Join(b.injections(), b.issues())
}

func (b bench) injections() error {
	mix, err := reviews()
	if err != nil {
		return err
	}
	injector, err := newInjector(discard())
	if err != nil {
		return err
	}
	for _, r := range mix {
		err := b.function("process."+r.name+".decode", func() error {
			return json.Unmarshal(r.pod, new(corev1.Pod))
		})
		if err != nil {
			return err
		}
		request := admission.Request{
			UID:       uidHole,
			Resource:  metav1.GroupVersionResource{Version: "v1", Resource: "pods"},
			Namespace: "shop",
			Operation: admissionv1.Create,
			Object:    r.pod,
		}
		err = b.function("process."+r.name+".injection", func() error {
			if a := injector.Admit(context.Background(), &request); !a.Allowed || len(a.Patch) == 0 {
				return fmt.Errorf("no patch: %s", a.Message)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b bench) issues() error {
	requests, err := newRequests()
	if err != nil {
		return err
	}
	floor, err := newFloorCA(time.Now())
	if err != nil {
		return err
	}
	citadel, err := newCitadel(discard(), time.Now())
	if err != nil {
		return err
	}
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("authorization", "Bearer "+caToken))
	for _, c := range []struct {
		role    string
		service securityapi.IstioCertificateServiceServer
	}{{roleFloorCA, floor}, {roleCitadel, citadel}} {
		n := 0
		err := b.function("process."+c.role+".issue", func() error {
			r := requests[n%len(requests)]
			n++
			answer, err := c.service.CreateCertificate(ctx, r.message())
			if err == nil && n == 1 {
				err = checkChain(r, answer.GetCertChain())
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// function reports what one call of f takes: CPU time, the collection of its garbage
// included, and allocations.
func (b bench) function(name string, f func() error) error {
	var failed error
	var spent time.Duration
	result := testing.Benchmark(func(t *testing.B) {
		before, err := ownCPU()
		if err != nil {
			failed = err
			t.FailNow()
		}
		for t.Loop() {
			if failed = f(); failed != nil {
				t.FailNow()
			}
		}
		after, err := ownCPU()
		spent, failed = after-before, err
	})
	if failed != nil {
		return fmt.Errorf("%s: %w", name, failed)
	}
	if result.N == 0 {
		return fmt.Errorf("%s: did not run", name)
	}
	b.report(
		figure{name: name + ".cpu", values: []float64{float64(spent.Nanoseconds()) / float64(result.N)}, unit: "ns"},
		figure{name: name + ".allocs", values: []float64{float64(result.AllocsPerOp())}, unit: "allocs"},
		figure{name: name + ".memory", values: []float64{float64(result.AllocedBytesPerOp())}, unit: "bytes"},
	)
	return nil
}

// discard is a log that costs what formatting costs.
func discard() *slog.Logger { return slog.New(slog.NewJSONHandler(io.Discard, nil)) }
