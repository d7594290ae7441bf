package inject

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// expectCounted holds that one review was counted, with this end.
func (w webhook) expectCounted(t *testing.T, outcome string, reason Reason) {
	t.Helper()
	if err := testutil.GatherAndCompare(w.metrics, strings.NewReader(fmt.Sprintf(`
# HELP sidecar_injection_requests_total Admission reviews of pods by what became of them and why.
# TYPE sidecar_injection_requests_total counter
sidecar_injection_requests_total{outcome=%q,reason=%q} 1
`, outcome, reason)), "sidecar_injection_requests_total"); err != nil {
		t.Error(err)
	}
}

// histogram is what a test asks of one.
type histogram struct {
	count      uint64
	sum, first float64 // of all that was observed; the bound of the first bucket
}

// histograms returns those of a name by the value of their label, if they have one.
func (w webhook) histograms(t *testing.T, name string) map[string]histogram {
	t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]histogram{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			label := ""
			for _, pair := range m.GetLabel() {
				label = pair.GetValue()
			}
			h := m.GetHistogram()
			all[label] = histogram{h.GetSampleCount(), h.GetSampleSum(), h.GetBucket()[0].GetUpperBound()}
		}
	}
	return all
}

// TestPhases: a review is in each phase once, and times are told apart from 50 µs on.
func TestPhases(t *testing.T) {
	w := newWebhook(t)
	if got := w.review(t, creation+bare); got.Patch == nil {
		t.Fatalf("not injected: %+v", got)
	}
	phases := w.histograms(t, "sidecar_injection_phase_seconds")
	for _, phase := range []string{"waiting", "reading", "decoding", "deciding", "encoding"} {
		if h := phases[phase]; h.count != 1 || h.first != 50e-6 {
			t.Errorf("%s: %+v", phase, h)
		}
	}
	if len(phases) != 5 {
		t.Errorf("phases: %v", phases)
	}
}
