package ca

import (
	"container/heap"
	"time"
)

// room is where requests wait: by the rules that [Gate] states, and without a
// clock or a lock.
type room struct {
	places    int
	renewals  line
	newcomers line
	last      *line // that had the last turn
	arrivals  uint64
}

// waiter is a request that waits for its turn.
type waiter struct {
	expires  time.Time // of the certificate that the caller holds; zero: none
	deadline time.Time // zero: none
	verdict  chan error

	arrival uint64
	at      int // in its line, counted from 1; 0 outside
}

// late reports whether a time is past the deadline.
func (w *waiter) late(t time.Time) bool { return !w.deadline.IsZero() && t.After(w.deadline) }

// before reports whether w goes ahead of another of its kind.
func (w *waiter) before(other *waiter) bool {
	if c := w.expires.Compare(other.expires); c != 0 {
		return c < 0
	}
	return w.arrival < other.arrival
}

func (r *room) len() int { return len(r.renewals) + len(r.newcomers) }

// lines returns the line that w belongs in, and the other one.
func (r *room) lines(w *waiter) (own, other *line) {
	if w.expires.IsZero() {
		return &r.newcomers, &r.renewals
	}
	return &r.renewals, &r.newcomers
}

// add gives w a place and returns who has none now: nobody, another one, or w.
func (r *room) add(w *waiter) (loser *waiter) {
	own, other := r.lines(w)
	r.arrivals++
	w.arrival = r.arrivals
	if r.len() >= r.places {
		from := own
		if len(*own) < r.places/2 {
			from = other // which then has more than its half
		}
		loser = from.last()
		if loser == nil || from == own && !w.before(loser) {
			return w
		}
		r.remove(loser)
	}
	heap.Push(own, w)
	return loser
}

// next takes out whose turn it is, or returns nil.
func (r *room) next() *waiter {
	l := &r.renewals
	if len(*l) == 0 || r.last == l && len(r.newcomers) > 0 {
		l = &r.newcomers
	}
	if len(*l) == 0 {
		return nil
	}
	r.last = l
	return heap.Pop(l).(*waiter)
}

// remove takes w out, and reports whether it was in.
func (r *room) remove(w *waiter) bool {
	if w.at == 0 {
		return false
	}
	own, _ := r.lines(w)
	heap.Remove(own, w.at-1)
	return true
}

// ahead returns how many turns come before that of w, who is not in, as things
// stand now.
func (r *room) ahead(w *waiter) int {
	own, other := r.lines(w)
	n := 0
	for _, o := range *own {
		if !w.expires.Before(o.expires) { // of equal ones the earlier arrival goes first
			n++
		}
	}
	if r.last == other {
		return n + min(n, len(*other))
	}
	return n + min(n+1, len(*other))
}

// line is a heap of waiters of one kind, the most urgent on top.
type line []*waiter

// last returns who would go last, or nil.
func (l line) last() (w *waiter) {
	for _, o := range l[len(l)/2:] { // the leaves
		if w == nil || w.before(o) {
			w = o
		}
	}
	return w
}

func (l line) Len() int           { return len(l) }
func (l line) Less(i, j int) bool { return l[i].before(l[j]) }
func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].at, l[j].at = i+1, j+1
}

// Push is for package heap.
func (l *line) Push(x any) {
	w := x.(*waiter)
	w.at = len(*l) + 1
	*l = append(*l, w)
}

// Pop is for package heap.
func (l *line) Pop() any {
	end := len(*l) - 1
	w := (*l)[end]
	(*l)[end] = nil
	w.at = 0
	*l = (*l)[:end]
	return w
}
