// Package exposition reads what servers expose for Prometheus, as far as tests and
// measurements here ask: sums over a metric's series. It checks nothing; a metric
// that is not there sums to zero.
package exposition

import (
	"strconv"
	"strings"
)

// Sum adds up the series of a metric whose labels hold every fragment given, such as
// `type="admit"`. Of a histogram the names are those with _sum and _count.
func Sum(text []byte, metric string, fragments ...string) float64 {
	sum := 0.0
series:
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, metric)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		labels, value := "", rest
		if rest[0] == '{' {
			end := strings.LastIndexByte(rest, '}')
			if end < 0 {
				continue
			}
			labels, value = rest[:end], rest[end+1:]
		}
		for _, fragment := range fragments {
			if !strings.Contains(labels, fragment) {
				continue series
			}
		}
		number, _, _ := strings.Cut(strings.TrimSpace(value), " ") // a time may follow
		if n, err := strconv.ParseFloat(number, 64); err == nil {
			sum += n
		}
	}
	return sum
}
