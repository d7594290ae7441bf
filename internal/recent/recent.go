// Package recent holds a map that remembers what was used last and no more than
// a given number of keys, so that strangers who can make up keys cannot make it grow.
//
// It forgets by generations instead of keeping the keys in order: one step more
// than a plain map to look something up, and nothing to link. Start reading at [Map].
// Standard library only.
package recent

// Map remembers at least the size keys that were used last, and at most twice as
// many. The zero value remembers nothing; [New] makes one. It is not safe for use
// by several goroutines.
type Map[K comparable, V any] struct {
	size       int
	young, old map[K]V
}

// New returns a map that remembers at least size keys.
func New[K comparable, V any](size int) *Map[K, V] {
	return &Map[K, V]{size: size, young: make(map[K]V)}
}

// Get returns what was put under a key last, which counts as a use of it. A key
// that was forgotten, or never there, is not ok.
func (m *Map[K, V]) Get(k K) (v V, ok bool) {
	if v, ok = m.young[k]; ok {
		return v, true
	}
	if v, ok = m.old[k]; ok {
		m.Put(k, v)
	}
	return v, ok
}

// Put remembers v under a key.
func (m *Map[K, V]) Put(k K, v V) {
	if m.size <= 0 {
		return
	}
	if _, ok := m.young[k]; !ok && len(m.young) >= m.size {
		m.old, m.young = m.young, make(map[K]V)
	}
	m.young[k] = v
}

// Len returns how many keys take up memory.
func (m *Map[K, V]) Len() int { return len(m.young) + len(m.old) }
