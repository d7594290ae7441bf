package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// figure is one measured quantity: a value for each repeat, and what is hoped for.
type figure struct {
	name   string
	values []float64
	unit   string
	goal   float64 // at most this; 0: none, it is there for comparison
}

// String gives the figure as a line: its median, its goal and the spread.
//
//	webhook.cpu.ratio 2.41 x goal 3 met repeats 7 min 2.30 max 2.55
//
// Without a goal the fields behind "goal" hold a dash each, so that every line
// has the same fields.
func (f figure) String() string {
	goal, verdict := "-", "-"
	value := median(f.values)
	if f.goal > 0 {
		goal, verdict = number(f.goal), "short"
		if value <= f.goal {
			verdict = "met"
		}
	}
	line := fmt.Sprintf("%s %s %s goal %s %s", f.name, number(value), f.unit, goal, verdict)
	if len(f.values) > 1 {
		line += fmt.Sprintf(" repeats %d min %s max %s", len(f.values), number(slices.Min(f.values)), number(slices.Max(f.values)))
	}
	return line
}

// number prints three significant digits, and no fewer digits than stand before
// the point.
func number(v float64) string {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	decimals := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, 'f', decimals, 64), 64)
	if err != nil {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

// median returns the middle value, of an even number the mean of the two in the
// middle, and NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// ratios divides repeat by repeat, so that what slowed a whole repeat down falls
// out.
func ratios(above, below []float64) []float64 {
	r := make([]float64, min(len(above), len(below)))
	for i := range r {
		r[i] = above[i] / below[i]
	}
	return r
}
