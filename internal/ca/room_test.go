package ca

import (
	"math/rand/v2"
	"testing"
	"time"
)

// queued is a waiter with what a law says about it.
type queued struct {
	*waiter
	ahead int // turns that may yet come before its own
}

// Whoever comes in whichever order, and goes: no turn is given to one who is not
// the most urgent of its kind; newcomers are served in the order in which they came;
// nobody waits for more turns than twice those of its kind that are more urgent, and
// one; the room is never over full, and a kind within its half loses nobody.
func TestRoomStarvesNobody(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		m := room{places: 2 + r.IntN(20)}
		in := map[*waiter]*queued{}
		base := time.Unix(1e9, 0)
		newcomers := r.IntN(10) // of ten
		for step := range 2000 {
			switch n := r.IntN(20); {
			case n < 11:
				w := &waiter{}
				if r.IntN(10) >= newcomers {
					w.expires = base.Add(time.Duration(r.IntN(50)) * time.Minute)
				}
				own, other := m.lines(w)
				ahead, ownBefore, otherBefore := m.ahead(w), len(*own), len(*other)
				loser := m.add(w)
				if m.len() > m.places {
					t.Fatalf("seed %d: %d wait in %d places", seed, m.len(), m.places)
				}
				if loser == w && ownBefore < m.places/2 {
					t.Fatalf("seed %d: refused the kind that holds %d of %d places", seed, ownBefore, m.places)
				}
				if loser != nil && loser != w {
					if from, _ := m.lines(loser); from == other && otherBefore <= m.places/2 {
						t.Fatalf("seed %d: the kind that holds %d of %d places lost one", seed, otherBefore, m.places)
					} else if from == own && !w.before(loser) {
						t.Fatalf("seed %d: the less urgent one got the place", seed)
					}
					if loser.at != 0 {
						t.Fatalf("seed %d: a loser is still in", seed)
					}
					delete(in, loser)
				}
				if loser == w {
					continue
				}
				for _, q := range in {
					if l, _ := m.lines(q.waiter); l == own && w.before(q.waiter) {
						q.ahead += 2
					}
				}
				// One of the other kind, which may yet come, before each of its own and itself.
				most := 2*countAhead(*own, w) + 1
				if loser == nil && (ahead > most || ahead < countAhead(*own, w)) {
					t.Fatalf("seed %d: %d turns ahead by the estimate, at most %d", seed, ahead, most)
				}
				in[w] = &queued{waiter: w, ahead: most}
			case n < 13:
				for w := range in {
					if !m.remove(w) || m.remove(w) {
						t.Fatalf("seed %d: removing one who waits", seed)
					}
					delete(in, w)
					break
				}
			default:
				w := m.next()
				if w == nil {
					if len(in) > 0 {
						t.Fatalf("seed %d: %d wait, and nobody has a turn", seed, len(in))
					}
					continue
				}
				q, ok := in[w]
				if !ok {
					t.Fatalf("seed %d step %d: a turn for one who had none coming", seed, step)
				}
				delete(in, w)
				if q.ahead < 0 {
					t.Fatalf("seed %d step %d: waited %d turns too long", seed, step, -q.ahead)
				}
				own, _ := m.lines(w)
				for _, o := range *own {
					if o.before(w) {
						t.Fatalf("seed %d: the most urgent one was passed over", seed)
					}
				}
				for _, o := range in {
					o.ahead--
				}
			}
		}
	}
}

// countAhead counts who in w's line goes before it.
func countAhead(l line, w *waiter) (n int) {
	for _, o := range l {
		if o.before(w) {
			n++
		}
	}
	return n
}

// While both kinds wait they take turns; the sooner end goes first.
func TestRoomOrder(t *testing.T) {
	m := room{places: 10}
	names := map[*waiter]string{}
	for _, in := range []struct {
		name    string
		minutes int // 0: newcomer
	}{{"late", 60}, {"first", 0}, {"soon", 1}, {"second", 0}, {"middle", 30}} {
		w := &waiter{}
		if in.minutes > 0 {
			w.expires = time.Unix(0, 0).Add(time.Duration(in.minutes) * time.Minute)
		}
		names[w] = in.name
		if m.add(w) != nil {
			t.Fatal("no place")
		}
	}
	for _, want := range []string{"soon", "first", "middle", "second", "late"} {
		if w := m.next(); names[w] != want {
			t.Errorf("turn of %q, want %q", names[w], want)
		}
	}
	if m.next() != nil {
		t.Error("a turn of nobody")
	}
}

// As long as nobody comes or goes, as many turns come before one's own as was foretold,
// once anybody has had one.
func TestRoomForetells(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		r := &room{places: 100}
		r.last = []*line{&r.renewals, &r.newcomers}[random.IntN(2)]
		newWaiter := func() *waiter {
			w := &waiter{}
			if random.IntN(2) == 0 {
				w.expires = time.Unix(1+random.Int64N(5), 0)
			}
			return w
		}
		for range random.IntN(12) {
			r.add(newWaiter())
		}
		for range random.IntN(3) {
			r.next()
		}
		w := newWaiter()
		want := r.ahead(w)
		r.add(w)
		got := 0
		for next := r.next(); next != w; next = r.next() {
			if got++; next == nil {
				t.Fatal("no turn came")
			}
		}
		if got != want {
			t.Fatalf("%d turns came before, %d were foretold", got, want)
		}
	}
}
