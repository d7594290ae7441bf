package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Newest returns the newest checkpoint, to be published.
func (l *Log) Newest() (Checkpoint, bool) {
	if c := l.newest.Load(); c != nil {
		return *c, true
	}
	return Checkpoint{}, false
}

// Run makes checkpoints until ctx ends, and finds out when a log that could not be
// written to can be again.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last time.Time
	for {
		byNumber := false
		select {
		case <-ctx.Done():
			return nil
		case <-l.due:
			byNumber = true
		case <-tick.C:
		}
		l.probe()
		if now := time.Now(); byNumber || now.Sub(last) >= l.o.Interval {
			last = now
			if err := l.checkpoint(); err != nil && l.err.Load() == nil {
				l.o.Log.Error("made no checkpoint", "err", err)
			}
		}
	}
}

// checkpoint signs the last record, in the log, and that signature's own record for
// those outside, where there is news since the last one.
func (l *Log) checkpoint() error {
	if !l.acquire() {
		return ErrStalled
	}
	defer l.release()
	if err := l.err.Load(); err != nil {
		return *err
	}
	if l.closed || l.signed == l.seq {
		return nil
	}
	c := Checkpoint{Replica: l.o.Replica, Run: l.run, Seq: l.seq, Head: l.head, Time: time.Now().UTC().Round(0)}
	signed, err := l.signer.sign(c)
	if err != nil {
		return err
	}
	l.buffer, l.lines = l.buffer[:0], l.lines[:0]
	l.add(&Record{Entry: Entry{Time: c.Time, Event: checkpoint}, Replica: c.Replica, Signature: signed.Signature})
	if err := l.flush(); err != nil {
		return err
	}
	c.Seq, c.Head = l.seq, l.head
	if signed, err = l.signer.sign(c); err != nil {
		return err
	}
	l.signed = l.seq
	l.newest.Store(&signed)
	return nil
}

// Close makes the last checkpoint. Nothing can be appended afterwards.
func (l *Log) Close() error {
	l.probe()
	err := l.checkpoint()
	if !l.acquire() {
		return fmt.Errorf("issuance log: %w", ErrStalled)
	}
	defer l.release()
	if l.closed {
		return nil
	}
	l.closed = true
	if err = errors.Join(err, l.out.Close()); err != nil {
		return fmt.Errorf("issuance log: %w", err)
	}
	return nil
}
