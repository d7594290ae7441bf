package exposition

import "testing"

const text = `# HELP admission_seconds Of webhooks.
# TYPE admission_seconds histogram
admission_seconds_bucket{name="a.example",type="admit",le="0.5"} 7
admission_seconds_sum{name="a.example",type="admit"} 0.25
admission_seconds_sum{name="a.example",type="validating"} 4
admission_seconds_sum{name="b.example",type="admit"} 2e+00 1395066363000
admission_seconds_count{name="a.example",type="admit"} 7
odd_total{path="}, 5"} 3
inflight 12
inflight_peak 30
`

func TestSum(t *testing.T) {
	for _, c := range []struct {
		metric    string
		fragments []string
		want      float64
	}{
		{"admission_seconds_sum", nil, 6.25},
		{"admission_seconds_sum", []string{`type="admit"`}, 2.25},
		{"admission_seconds_sum", []string{`name="a.`, `type="admit"`}, 0.25},
		{"admission_seconds_count", []string{`a.example"`}, 7},
		{"odd_total", nil, 3},
		{"inflight", nil, 12},
		{"inflight", []string{`a="b"`}, 0},
		{"absent", nil, 0},
	} {
		if got := Sum([]byte(text), c.metric, c.fragments...); got != c.want {
			t.Errorf("%s %v: %v, want %v", c.metric, c.fragments, got, c.want)
		}
	}
}
