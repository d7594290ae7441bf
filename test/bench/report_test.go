package main

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFigureLines(t *testing.T) {
	for _, c := range []struct {
		f    figure
		want string
	}{
		{figure{"webhook.cpu.ratio", []float64{2.5512, 2.3, 2.414}, "x", 3}, "webhook.cpu.ratio 2.41 x goal 3 met repeats 3 min 2.3 max 2.55"},
		{figure{"ca.cpu.ratio", []float64{1.9, 1.49, 1.53}, "x", 1.5}, "ca.cpu.ratio 1.53 x goal 1.5 short repeats 3 min 1.49 max 1.9"},
		{figure{"ca.cpu.ratio", []float64{1.5}, "x", 1.5}, "ca.cpu.ratio 1.5 x goal 1.5 met"},
		{figure{"floor.rss", []float64{20}, "MiB", 0}, "floor.rss 20 MiB goal - -"},
	} {
		if got := c.f.String(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.004567: "0.00457", 0.36: "0.36", 1.005: "1", 2.345: "2.35", 99.96: "100", 1234.5: "1234", 7600: "7600", -1.5: "-1.5",
	} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	given := []float64{9, 1, 4}
	if got := median(given); got != 4 {
		t.Errorf("median of three: %v", got)
	}
	if diff := cmp.Diff([]float64{9, 1, 4}, given); diff != "" {
		t.Errorf("the caller's values changed: %s", diff)
	}
	if got := median([]float64{4, 1, 9, 2}); got != 3 {
		t.Errorf("median of four: %v", got)
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of none: %v", got)
	}
}

func TestRatiosGoRepeatByRepeat(t *testing.T) {
	if diff := cmp.Diff([]float64{2, 4}, ratios([]float64{2, 8, 9}, []float64{1, 2})); diff != "" {
		t.Error(diff)
	}
}
