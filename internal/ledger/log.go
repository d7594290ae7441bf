package ledger

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the settings of a log. Zero values mean defaults.
type Options struct {
	Replica string        // names the writer, unlike all others; required
	Key     crypto.Signer // signs checkpoints: Ed25519 or P-256, and not the CA's; required

	Every    uint64        // entries after which there is a checkpoint; 0: 1000
	Interval time.Duration // after which there is one if there is news; 0: 10 s
	Stall    time.Duration // how long a write may take before the log counts as unwritable; 0: 2 s

	MaxFile int64 // of a directory: bytes after which another file is begun; 0: 64 MiB
	NoSync  bool  // of a directory: do not wait until the disk has what was written

	Log *slog.Logger // nil: no log
}

// Why nothing can be appended, beside what a write returned.
var (
	ErrStalled = errors.New("a write does not end")
	ErrClosed  = errors.New("closed")
)

// Log is an append-only log of one replica. Its methods may be called at the same time.
//
// Where a write was cut, callers get an error, and the next one goes on with the line that
// was begun, so that however often that happens, half a line is all that is owed. Only a
// process that ends in between leaves a broken one; the opening of the next says which.
// So an entry whose Append returned an error may be in the log all the same, as where the
// write was whole and its confirmation was lost: there may be more in the log than was
// handed out, never less.
type Log struct {
	o      Options
	signer signer
	run    string
	out    destination

	mu    sync.Mutex
	queue []*pending
	spare []*pending // the other queue, empty

	turn  chan struct{} // holds one while somebody writes, who owns the fields below
	began atomic.Int64  // when a write began, after birth, in nanoseconds; 0: none is under way
	birth time.Time

	opened  bool
	closed  bool
	seq     uint64 // of the last record
	head    Hash
	signed  uint64 // the last record that a checkpoint is about
	newline bool   // the last line lacks its end
	half    []byte // the rest of a line that was begun, its end included; or nil
	whole   Hash   // of the record in that line
	torn    []Hash // of broken lines that another process left after the last record
	buffer  []byte
	lines   []written

	due    chan struct{} // holds one when a checkpoint is due by number
	err    atomic.Pointer[error]
	newest atomic.Pointer[Checkpoint]
}

// destination is what a log writes to.
type destination interface {
	io.Writer
	// begin prepares for the record of that number, and reports whether it comes first in a file.
	begin(seq uint64) bool
	// commit makes what was written last.
	commit() error
	io.Closer
}

// stream is a destination that is what it is, such as standard output.
type stream struct{ io.Writer }

func (stream) begin(uint64) bool { return false }
func (stream) commit() error     { return nil }
func (stream) Close() error      { return nil }

// pending is an entry on its way.
type pending struct {
	entry Entry
	done  bool
	err   error
}

// written is where in the buffer a record ends, its line's end included.
type written struct {
	end  int
	hash Hash
}

// New returns a log that begins a new chain on w, to which each Write goes whole. Where
// w cannot be written to yet, [Log.Ready] says so.
func New(w io.Writer, o Options) (*Log, error) {
	l, err := newLog(stream{w}, o)
	if err != nil {
		return nil, err
	}
	l.probe()
	return l, nil
}

func newLog(out destination, o Options) (*Log, error) {
	if err := checkReplica(o.Replica); err != nil {
		return nil, err
	}
	s, err := newSigner(o.Key)
	if err != nil {
		return nil, fmt.Errorf("checkpoint key: %w", err)
	}
	if o.Every == 0 {
		o.Every = 1000
	}
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	if o.Stall <= 0 {
		o.Stall = 2 * time.Second
	}
	if o.MaxFile <= 0 {
		o.MaxFile = 64 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Log{
		o: o, signer: s, run: rand.Text()[:16], out: out, birth: time.Now(),
		turn: make(chan struct{}, 1), due: make(chan struct{}, 1),
	}, nil
}

// checkReplica refuses names that cannot be part of a file's.
func checkReplica(name string) error {
	if name == "" || len(name) > 253 || name[0] == '.' {
		return fmt.Errorf("replica %q: no name for a log", name)
	}
	for _, c := range []byte(name) {
		if c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return fmt.Errorf("replica %q: want letters, digits, dots, dashes", name)
		}
	}
	return nil
}

// Append puts an entry into the log and returns when it is there. An error means that
// nothing may be handed out. Of callers at the same time one writes for all.
func (l *Log) Append(e Entry) error {
	p := &pending{entry: e.kept(time.Now())}
	l.mu.Lock()
	l.queue = append(l.queue, p)
	l.mu.Unlock()
	if !l.acquire() {
		l.mu.Lock()
		if i := slices.Index(l.queue, p); i >= 0 {
			l.queue = slices.Delete(l.queue, i, i+1)
		}
		l.mu.Unlock()
		return fmt.Errorf("issuance log: %w", ErrStalled)
	}
	if !p.done {
		l.mu.Lock()
		batch := l.queue
		l.queue, l.spare = l.spare, nil
		l.mu.Unlock()
		l.write(batch)
		clear(batch)
		l.mu.Lock()
		l.spare = batch[:0]
		l.mu.Unlock()
	}
	l.release()
	if p.err != nil {
		return fmt.Errorf("issuance log: %w", p.err)
	}
	return nil
}

// acquire waits for its turn to write, not longer than a write may take.
func (l *Log) acquire() bool {
	select {
	case l.turn <- struct{}{}:
		return true
	default:
	}
	if l.stalled() {
		return false
	}
	timer := time.NewTimer(l.o.Stall)
	defer timer.Stop()
	select {
	case l.turn <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

func (l *Log) release() { <-l.turn }

func (l *Log) stalled() bool {
	began := l.began.Load()
	return began != 0 && time.Since(l.birth)-time.Duration(began) > l.o.Stall
}

// Ready reports why nothing can be appended.
func (l *Log) Ready() error {
	if l.stalled() {
		return fmt.Errorf("issuance log: %w", ErrStalled)
	}
	if err := l.err.Load(); err != nil {
		return fmt.Errorf("issuance log: %w", *err)
	}
	return nil
}

// write appends the batch, after what the log has to say first. It has the turn.
func (l *Log) write(batch []*pending) {
	if l.closed {
		conclude(batch, ErrClosed)
		return
	}
	l.prepare()
	for _, p := range batch {
		l.add(&Record{Entry: p.entry})
	}
	err := l.flush()
	conclude(batch, err)
	if l.seq-l.signed >= l.o.Every {
		select {
		case l.due <- struct{}{}:
		default: // it knows
		}
	}
}

// conclude tells those who wait. Where a write was cut short, that is all of them: what
// of it may be believed is not worth guessing.
func conclude(batch []*pending, err error) {
	for _, p := range batch {
		p.done, p.err = true, err
	}
}

// prepare fills the buffer with what must come before any entry: the rest of a line that
// was begun or broken, and an opening or a resumption where one is due.
func (l *Log) prepare() {
	l.buffer, l.lines = l.buffer[:0], l.lines[:0]
	switch {
	case l.newline:
		l.buffer = append(l.buffer, '\n')
	case l.half != nil:
		l.buffer = append(l.buffer, l.half...)
		l.lines = append(l.lines, written{len(l.buffer), l.whole})
	}
	own := Record{Entry: Entry{Time: time.Now()}, Replica: l.o.Replica}
	switch first := l.err.Load() == nil && l.out.begin(l.seq+1); {
	case first || !l.opened && l.half == nil: // else that is the opening
		own.Event, own.PublicKey, own.Torn = opened, l.signer.public, l.torn
	case l.err.Load() != nil:
		own.Event = resumed
	default:
		return
	}
	l.add(&own)
}

// add encodes a record as the next one, into the buffer.
func (l *Log) add(r *Record) {
	r.Run, r.Seq, r.Prev = l.run, l.seq+uint64(len(l.lines))+1, l.head
	if n := len(l.lines); n > 0 {
		r.Prev = l.lines[n-1].hash
	}
	l.buffer = append(r.appendTo(l.buffer), '\n')
	l.lines = append(l.lines, written{len(l.buffer), r.Hash})
}

// flush writes the buffer in one call and takes note of how far that came.
func (l *Log) flush() error {
	l.began.Store(int64(max(time.Since(l.birth), 1)))
	n, err := l.out.Write(l.buffer)
	if err == nil && n < len(l.buffer) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = l.out.commit()
	}
	l.began.Store(0)
	l.account(n)
	before := l.err.Load()
	switch {
	case err != nil && before == nil:
		l.o.Log.Error("issuance log became unwritable; nothing is issued", "err", err)
	case err == nil && before != nil:
		l.o.Log.Info("issuance log became writable again")
	}
	if l.err.Store(nil); err != nil {
		l.err.Store(&err)
	}
	return err
}

// account takes note of the first n bytes of the buffer as written. Records that are
// whole but for their line's end are in the chain: the end will follow. Of one that was
// only begun the rest will, and of those after it nothing.
func (l *Log) account(n int) {
	whole := 0
	if l.newline && n > 0 {
		l.newline, whole = false, 1
	}
	for i, line := range l.lines {
		if n < line.end-1 {
			if n > whole || i == 0 && l.half != nil {
				l.half, l.whole = bytes.Clone(l.buffer[n:line.end]), line.hash
			}
			return
		}
		l.seq++
		l.head, l.half, l.torn, l.opened = line.hash, nil, nil, true
		l.newline = n < line.end
		whole = line.end
	}
}

// probe finds out whether the log can be written to again. Without an entry it writes
// only what is due anyway.
func (l *Log) probe() {
	if !l.acquire() {
		return
	}
	defer l.release()
	if !l.closed && (!l.opened || l.err.Load() != nil) {
		l.write(nil)
	}
}
