package recent

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever is done with a map, the keys used last are there with their last values,
// and it stays within its bound.
func TestMapRemembersWhatWasUsedLast(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		size := 1 + r.IntN(8)
		m := New[int, int](size)
		truth := map[int]int{}
		var used []int // oldest first
		for n := range 500 {
			k := r.IntN(3 * size)
			if r.IntN(2) == 0 {
				m.Put(k, n)
				truth[k] = n
			} else if _, ok := m.Get(k); !ok {
				if at := slices.Index(used, k); at >= 0 && at >= len(used)-size {
					t.Fatalf("seed %d: forgot %d, one of the last %d", seed, k, size)
				}
				continue
			}
			used = append(slices.DeleteFunc(used, func(u int) bool { return u == k }), k)
			if v, ok := m.Get(k); !ok || v != truth[k] {
				t.Fatalf("seed %d: %d is %d, %t, want %d", seed, k, v, ok, truth[k])
			}
			if m.Len() > 2*size {
				t.Fatalf("seed %d: %d keys, at most %d", seed, m.Len(), 2*size)
			}
		}
	}
}

func TestMapOfNoSizeRemembersNothing(t *testing.T) {
	m := New[string, int](0)
	m.Put("a", 1)
	if _, ok := m.Get("a"); ok || m.Len() != 0 {
		t.Error("it does")
	}
}
