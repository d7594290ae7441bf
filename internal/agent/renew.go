package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"
)

// Retries of a refused or failed request for a certificate: soon at first, since
// a pod waits for it, then slowly, since ten thousand pods may do so.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// nap bounds a sleep. Timers do not count the time that a machine was suspended,
// nor steps of its clock; certificates do.
const nap = time.Minute

// renewer holds the pod's certificate and replaces it in time. The old one stays
// in use until its successor is stored.
type renewer struct {
	fetch func(context.Context) (*Certificate, error)
	keep  func(*Certificate) error // makes it visible, before it counts as held
	log   *slog.Logger
	now   func() time.Time // time.Now, whose steps tests imitate

	held  atomic.Pointer[Certificate]
	first chan struct{} // closed when there is a certificate
}

func newRenewer(fetch func(context.Context) (*Certificate, error), keep func(*Certificate) error, log *slog.Logger) *renewer {
	return &renewer{fetch: fetch, keep: keep, log: log, now: time.Now, first: make(chan struct{})}
}

// valid reports whether a certificate is held that has not ended.
func (r *renewer) valid(now time.Time) bool {
	c := r.held.Load()
	return c != nil && now.Before(c.NotAfter())
}

// adopt takes up a certificate that is already in place, before Run.
func (r *renewer) adopt(c *Certificate) {
	r.held.Store(c)
	close(r.first)
}

// Run fetches the first certificate unless there is one, and its successors at
// half-life, until ctx ends. It never gives up: without the CA the certificate in
// use stays, and a pod without one stays unready.
func (r *renewer) Run(ctx context.Context) error {
	failures := 0
	for {
		var wait time.Duration
		switch c := r.held.Load(); {
		case failures > 0:
			wait = retryDelay(failures, rand.Float64()) //nolint:gosec // jitter
		case c != nil:
			wait = renewalDelay(r.now(), c.NotAfter(), rand.Float64()) //nolint:gosec // jitter
		}
		if !r.wait(ctx, wait) {
			return nil
		}
		if err := r.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			failures++
			r.log.WarnContext(ctx, "certificate not obtained", "code", status.Code(err).String(), "failures", failures, "err", err)
			continue
		}
		failures = 0
	}
}

func (r *renewer) renew(ctx context.Context) error {
	c, err := r.fetch(ctx)
	if err != nil {
		return err
	}
	if err := r.keep(c); err != nil {
		return err
	}
	if r.held.Swap(c) == nil {
		close(r.first)
	}
	r.log.InfoContext(ctx, "certificate obtained", "serial", c.leaf.SerialNumber.Text(16), "expires", c.NotAfter())
	return nil
}

// renewalDelay is half of what is left, give or take a tenth: pods that started
// together do not ask together. The clock that counts is ours at reception; the
// CA dates certificates back. Jitter is in [0,1).
func renewalDelay(now, notAfter time.Time, jitter float64) time.Duration {
	half := notAfter.Sub(now) / 2
	return max(firstRetry, time.Duration(float64(half)*(0.9+0.2*jitter)))
}

// retryDelay doubles from [firstRetry] to [lastRetry], and draws from the upper
// half of that. Jitter is in [0,1).
func retryDelay(failures int, jitter float64) time.Duration {
	ceiling := lastRetry
	if failures < 8 { // beyond, the shift would pass lastRetry anyway
		ceiling = min(lastRetry, firstRetry<<(failures-1))
	}
	return ceiling/2 + time.Duration(float64(ceiling/2)*jitter)
}

// wait reports whether d passed before ctx ended, by the timer or by the clock:
// whichever is first.
func (r *renewer) wait(ctx context.Context, d time.Duration) bool {
	due := r.now().Add(d).Round(0) // compares by the clock alone
	for ; d > 0 && r.now().Before(due); d -= nap {
		if !sleep(ctx, min(d, nap)) {
			return false
		}
	}
	return ctx.Err() == nil
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
