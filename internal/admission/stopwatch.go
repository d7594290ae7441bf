package admission

import "time"

// phase is one of the things that a request spends its time in.
type phase int

const (
	waiting phase = iota
	reading
	decoding
	deciding
	encoding
	phases = iota // how many there are
)

func (p phase) String() string {
	return [phases]string{"waiting", "reading", "decoding", "deciding", "encoding"}[p]
}

// stopwatch adds up how long one request was in each phase.
type stopwatch struct {
	began   time.Time // the phase under way
	entered [phases]bool
	spent   [phases]time.Duration
}

// end ends the phase under way, which was this one, and begins the next.
func (s *stopwatch) end(p phase) {
	now := time.Now()
	s.entered[p] = true
	s.spent[p] += now.Sub(s.began)
	s.began = now
}

// report tells of each phase that ended.
func (s *stopwatch) report(observe func(string, time.Duration)) {
	if observe == nil {
		return
	}
	for p := range phase(phases) {
		if s.entered[p] {
			observe(p.String(), s.spent[p])
		}
	}
}
