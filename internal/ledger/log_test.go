package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var errFull = errors.New("no space left")

// faulty is a writer that for some writes takes only so many bytes.
type faulty struct {
	bytes.Buffer
	writes int
	next   []int
}

func (f *faulty) take(n ...int) { f.next = n }

func (f *faulty) Write(p []byte) (int, error) {
	f.writes++
	if len(f.next) == 0 {
		return f.Buffer.Write(p)
	}
	n := min(f.next[0], len(p))
	f.next = f.next[1:]
	f.Buffer.Write(p[:n])
	return n, errFull
}

// A log whose first line cannot be written is not ready until it can be.
func TestUnwritableFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &faulty{next: []int{0, 5}}
		l, err := New(w, Options{Replica: "a", Key: newKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Ready(); !errors.Is(err, errFull) {
			t.Errorf("ready: %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		time.Sleep(1500 * time.Millisecond)
		if err := l.Ready(); !errors.Is(err, errFull) {
			t.Errorf("ready after a second cut: %v", err)
		}
		time.Sleep(time.Second)
		if err := l.Ready(); err != nil {
			t.Errorf("ready: %v", err)
		}
		stop()
		if err := errors.Join(<-ended, l.Close()); err != nil {
			t.Error(err)
		}
		expectWhole(t, verify(t, VerifyOptions{}, w.Bytes()), 1)
	})
}

// A pipe whose reader is gone is an error like any other.
func TestClosedPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	l, err := New(w, Options{Replica: "a", Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Ready(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(entry(1)); !errors.Is(err, syscall.EPIPE) || !errors.Is(l.Ready(), syscall.EPIPE) {
		t.Errorf("%v; ready: %v", err, l.Ready())
	}
}

// A write that does not end holds up one caller and no other.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		var out bytes.Buffer
		buffered := make(chan struct{})
		read := make(chan error, 1)
		go func() { // until the pipe is closed; it is waited for below
			_, err := io.CopyN(&out, r, 1)
			<-buffered
			if _, more := io.Copy(&out, r); more != nil {
				err = more
			}
			read <- err
		}()
		opening := make(chan *Log, 1)
		go func() {
			l, err := New(w, Options{Replica: "a", Key: newKey(t)})
			if err != nil {
				t.Error(err)
			}
			opening <- l
		}()
		close(buffered)
		l := <-opening
		appendAll(t, l, entry(1))

		gate := make(chan struct{})
		l.out = stream{gated{w, gate}}
		results := make(chan error, 3)
		go func() { results <- l.Append(entry(2)) }()
		synctest.Wait()
		go func() { results <- l.Append(entry(3)) }()
		if err := <-results; !errors.Is(err, ErrStalled) {
			t.Errorf("behind it: %v", err)
		}
		time.Sleep(time.Millisecond)
		if err := l.Ready(); !errors.Is(err, ErrStalled) {
			t.Errorf("ready: %v", err)
		}
		began := time.Now()
		if err := l.Append(entry(4)); !errors.Is(err, ErrStalled) || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		close(gate)
		if err := <-results; err != nil {
			t.Errorf("the write itself: %v", err)
		}
		appendAll(t, l, entry(5))
		if err := errors.Join(l.Ready(), l.Close(), w.Close(), <-read); err != nil {
			t.Error(err)
		}
		var got []string
		report := verify(t, VerifyOptions{See: func(r Record, _ Position) { got = append(got, r.Event+r.Request) }}, out.Bytes())
		expectWhole(t, report, 1)
		want := []string{"opened", "issuedrequest-1", "issuedrequest-2", "issuedrequest-5", "checkpoint"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// gated is a writer that waits.
type gated struct {
	io.Writer
	gate chan struct{}
}

func (g gated) Write(p []byte) (int, error) {
	<-g.gate
	return g.Writer.Write(p)
}

// Callers at the same time are all served, in one chain, and share writes where one is
// slow.
func TestConcurrentAppend(t *testing.T) {
	w := &faulty{}
	l, err := New(w, Options{Replica: "a", Key: newKey(t), Every: 50, Stall: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg, running sync.WaitGroup
	running.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	const callers, each = 16, 100
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				if err := l.Append(Entry{Event: Issued, Request: fmt.Sprintf("%d.%d", caller, i)}); err != nil {
					t.Error(err)
				}
				if err := l.Ready(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stop()
	running.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	last := map[string]int{}
	r := verify(t, VerifyOptions{See: func(r Record, _ Position) {
		if caller, i, ok := strings.Cut(r.Request, "."); ok {
			if fmt.Sprint(last[caller]) != i {
				t.Errorf("%s comes after %d others", r.Request, last[caller])
			}
			last[caller]++
		}
	}}, w.Bytes())
	if expectWhole(t, r, 1); r.Chains[0].Issued != callers*each {
		t.Errorf("%d entries", r.Chains[0].Issued)
	}
}

// What waits while somebody writes goes out as one.
func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &faulty{}
		l, err := New(w, Options{Replica: "a", Key: newKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		l.out = stream{gated{w, gate}}
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if err := l.Append(entry(i)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		before := w.writes
		close(gate)
		wg.Wait()
		if n := w.writes - before; n != 2 {
			t.Errorf("%d writes for one entry and nine that waited", n)
		}
		expectWhole(t, verify(t, VerifyOptions{}, w.Bytes()), 1)
	})
}

// Checkpoints come by number and by time, where there is something new.
func TestCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &faulty{}
		l, err := New(w, Options{Replica: "a", Key: newKey(t), Every: 10, Interval: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		expect := func(what string, seq uint64) {
			t.Helper()
			synctest.Wait()
			if c, _ := l.Newest(); c.Seq != seq {
				t.Errorf("%s: checkpoint of %d, want %d", what, c.Seq, seq)
			}
		}
		expect("at first", 0)
		time.Sleep(1001 * time.Millisecond)
		expect("soon after the opening", 2)
		time.Sleep(time.Hour)
		expect("without news", 2)
		for i := range 9 {
			appendAll(t, l, entry(i))
		}
		expect("nine entries", 2)
		appendAll(t, l, entry(9))
		expect("ten entries", 13)
		appendAll(t, l, entry(10))
		time.Sleep(time.Minute + time.Second)
		expect("a minute", 15)
		stop()
		appendAll(t, l, entry(11))
		if err := errors.Join(<-ended, l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		expect("at the end", 17)
		if err := l.Append(entry(12)); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
		c, _ := l.Newest()
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseCheckpoint(text)
		if err != nil {
			t.Fatal(err)
		}
		expectWhole(t, verify(t, VerifyOptions{Published: []Checkpoint{again}}, w.Bytes()), 1)
		if _, err := ParseCheckpoint(bytes.Replace(text, []byte(`"a"`), []byte(`"b"`), 1)); err == nil {
			t.Error("took a checkpoint for another replica's")
		}
	})
}

func TestWrongOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no replica": {Key: newKey(t)}, "a path": {Key: newKey(t), Replica: "../x"}, "no key": {Replica: "a"},
	} {
		if _, err := New(io.Discard, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, text := range []string{"", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParseKey([]byte(text)); err == nil {
			t.Errorf("%q: a key", text)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	l, err := New(io.Discard, Options{Replica: "citadel-5f6c7d8b9-abcde", Key: newKey(b)})
	if err != nil {
		b.Fatal(err)
	}
	bench(b, l)
}

func bench(b *testing.B, l *Log) {
	b.Helper()
	e := entry(7)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := l.Append(e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := l.Append(e); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
