package ledger

import (
	"bytes"
	"errors"
	"testing"
)

// TestCutAnywhere holds that a log which could not be written to goes on as a whole
// chain with every entry that was accepted, wherever two writes in a row were cut.
func TestCutAnywhere(t *testing.T) {
	key := newKey(t)
	var whole bytes.Buffer
	l, err := New(&whole, Options{Replica: "a", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	start := whole.Len()
	appendAll(t, l, entry(1))
	length := whole.Len() - start
	for cut := range length + 1 {
		for _, second := range []int{0, 1, cut} {
			w := &faulty{}
			l, err := New(w, Options{Replica: "a", Key: key})
			if err != nil {
				t.Fatal(err)
			}
			appendAll(t, l, entry(1))
			w.take(cut, second)
			for range 2 {
				if err := l.Append(entry(1)); !errors.Is(err, errFull) {
					t.Fatalf("cut after %d: %v", cut, err)
				}
				if err := l.Ready(); !errors.Is(err, errFull) {
					t.Fatalf("cut after %d: ready: %v", cut, err)
				}
			}
			appendAll(t, l, entry(3))
			if err := errors.Join(l.Ready(), l.Close()); err != nil {
				t.Fatal(err)
			}
			c, _ := l.Newest()
			entries := map[string]int{}
			r := verify(t, VerifyOptions{Published: []Checkpoint{c}, See: func(r Record, _ Position) { entries[r.Request]++ }}, w.Bytes())
			if expectWhole(t, r, 1); entries["request-1"] < 1 || entries["request-3"] != 1 {
				t.Errorf("%v", entries)
			}
			if t.Failed() {
				t.Fatalf("cuts after %d and %d:\n%s", cut, second, w.Bytes())
			}
		}
	}
}

// However often a write is cut, in whatever places, the log owes no more than the rest of
// one line, and what it says when it can be written to again is no longer for it.
func TestCutAgainAndAgain(t *testing.T) {
	key := newKey(t)
	once := 0
	for _, times := range []int{1, 1000} {
		w := &faulty{}
		l, err := New(w, Options{Replica: "a", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		appendAll(t, l, entry(1))
		for i := range times {
			w.take(1 + i%3)
			if err := l.Append(entry(2)); !errors.Is(err, errFull) {
				t.Fatal(err)
			}
		}
		before := w.Len()
		appendAll(t, l, entry(3))
		length := w.Len() - before
		if times == 1 {
			once = length
		}
		if length > 2*once {
			t.Errorf("after %d cuts %d bytes, after one %d", times, length, once)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		expectWhole(t, verify(t, VerifyOptions{}, w.Bytes()), 1)
	}
}
