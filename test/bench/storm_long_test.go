//go:build long

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Ten thousand agents that start at once all get their certificates, those whose
// certificate is about to end among them, in time and before most of the newcomers, and the
// server keeps within the memory that its manifest allows. How long it takes, `bench -only storm` reports.
func TestStormEnds(t *testing.T) {
	named := os.Getenv("GARRISON_CLUSTER_BIN")
	b := bench{dir: t.TempDir(), plan: plan{lab: cmp.Or(named, filepath.Join("..", "..", "build", "bin", "cluster"))}}
	c, stop, err := b.startCitadel(t.Context())
	if what, ok := errors.AsType[missing](err); ok && named == "" {
		t.Skip(what)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	const agents = 10_000
	s, err := c.storm(t.Context(), agents)
	if err != nil {
		t.Fatalf("%v: %s", err, c.said())
	}
	if len(s.waits) != agents || len(s.renewals) != agents/stormRenewals {
		t.Errorf("%d agents and %d renewals", len(s.waits), len(s.renewals))
	}
	last := s.renewals[len(s.renewals)-1]
	if last > stormLeft {
		t.Errorf("a certificate ended while its holder waited for the next, for %v", last)
	}
	if half := s.waits[len(s.waits)/2]; last > half {
		t.Errorf("a holder of a certificate waited %v for the next, and half of the newcomers at most %v", last, half)
	}
	if s.memory > stormMemoryGoal<<20 {
		t.Errorf("took %d MiB, and may take %d", s.memory>>20, stormMemoryGoal)
	}
	t.Log(fmt.Sprintf("%v, renewals at most %v, %d MiB, %d requests", s.took, last, s.memory>>20, s.asked))
}
