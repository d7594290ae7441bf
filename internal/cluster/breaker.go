package cluster

import (
	"sync"
	"time"
)

const (
	breakAfter = 5               // failures in a row
	breakFor   = 5 * time.Second // until one request may try again
)

// outcome is what came of a request that a breaker let through.
type outcome int

const (
	answered  outcome = iota // whatever the answer was
	failed                   // no answer, or one that says the server cannot
	withdrawn                // nobody waited for the answer any more
)

// breaker keeps requests from a server that does not answer, so that those who wait
// for it wait for nothing only a few times. The zero value lets through.
type breaker struct {
	mu     sync.Mutex
	inARow int       // failures
	until  time.Time // nothing passes before, and one at a time after; zero: all pass
	trying bool      // that one is under way
	total  int       // failures since the start
}

// enter reports whether a request may be sent; leave has to be told what came of it.
func (b *breaker) enter(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until.IsZero() {
		return true
	}
	if b.trying || now.Before(b.until) {
		return false
	}
	b.trying = true
	return true
}

func (b *breaker) leave(now time.Time, what outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
	switch what {
	case answered:
		b.inARow, b.until = 0, time.Time{}
	case failed:
		b.total++
		if b.inARow++; b.inARow >= breakAfter {
			b.until = now.Add(breakFor)
		}
	case withdrawn:
	}
}

// state returns whether requests are kept back, and how many have failed in all.
func (b *breaker) state() (open bool, failures int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.until.IsZero(), b.total
}
