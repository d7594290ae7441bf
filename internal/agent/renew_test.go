package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func keepNothing(*Certificate) error { return nil }

func TestRenewsAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, id := newTestCA(t), testID(t, "sleep")
		var at []time.Duration
		start := time.Now()
		r := newRenewer(func(context.Context) (*Certificate, error) {
			at = append(at, time.Since(start))
			return ca.certificate(id, 24*time.Hour), nil
		}, keepNothing, discardLog())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		<-r.first
		time.Sleep(60 * time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if at[0] != 0 {
			t.Errorf("first fetched after %v", at[0])
		}
		for i := 1; i < len(at); i++ {
			if gap := at[i] - at[i-1]; gap < 648*time.Minute-time.Second || gap > 792*time.Minute { // a certificate ends at a whole second
				t.Errorf("fetched %v after the one before, want 12 h give or take a tenth", gap)
			}
		}
		if len(at) < 5 || len(at) > 6 {
			t.Errorf("%d fetches in 60 h", len(at))
		}
	})
}

func TestKeepsTheOldCertificateUntilThereIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, id := newTestCA(t), testID(t, "sleep")
		var broken, full atomic.Bool
		var fetches atomic.Int32
		r := newRenewer(func(context.Context) (*Certificate, error) {
			fetches.Add(1)
			if broken.Load() {
				return nil, status.Error(codes.Unavailable, "no CA")
			}
			return ca.certificate(id, 24*time.Hour), nil
		}, func(*Certificate) error {
			if full.Load() {
				return errors.New("no space left")
			}
			return nil
		}, discardLog())
		go r.Run(t.Context())
		<-r.first
		first := r.held.Load()

		broken.Store(true)
		time.Sleep(20 * time.Hour)
		if r.held.Load() != first || !r.valid(time.Now()) {
			t.Error("the old certificate was not kept")
		}
		if n := fetches.Load(); n < 500 {
			t.Errorf("%d fetches in 8 h: gave up?", n)
		}
		broken.Store(false)
		full.Store(true)
		time.Sleep(time.Minute)
		if r.held.Load() != first {
			t.Error("a certificate that could not be stored counts as held")
		}
		broken.Store(true)
		time.Sleep(4 * time.Hour)
		if r.valid(time.Now()) {
			t.Error("expired, yet valid")
		}
		broken.Store(false)
		full.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.held.Load() == first || !r.valid(time.Now()) {
			t.Error("no new certificate within a minute of the CA's return")
		}
	})
}

func TestFirstCertificateIsAskedForUntilItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, id := newTestCA(t), testID(t, "sleep")
		fetches := 0
		r := newRenewer(func(context.Context) (*Certificate, error) {
			if fetches++; fetches < 4 {
				return nil, status.Error(codes.Unavailable, "starting")
			}
			return ca.certificate(id, time.Hour), nil
		}, keepNothing, discardLog())
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		<-r.first
		if took := time.Since(start); took < 1750*time.Millisecond || took > 3500*time.Millisecond {
			t.Errorf("fourth attempt after %v, want half to all of 0.5+1+2 s", took)
		}
		cancel()
		<-done
	})
}

func TestAdoptedCertificateIsRenewedNotFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, id := newTestCA(t), testID(t, "sleep")
		var fetches atomic.Int32
		r := newRenewer(func(context.Context) (*Certificate, error) {
			fetches.Add(1)
			return ca.certificate(id, 24*time.Hour), nil
		}, keepNothing, discardLog())
		r.adopt(ca.certificate(id, 2*time.Hour))
		go r.Run(t.Context())
		<-r.first
		time.Sleep(50 * time.Minute)
		if fetches.Load() != 0 {
			t.Error("fetched early")
		}
		time.Sleep(20 * time.Minute)
		if n := fetches.Load(); n != 1 {
			t.Errorf("%d fetches after the half-life of one hour", n)
		}
	})
}

// A machine that was suspended over the renewal, or whose clock was put right,
// must not go on with an expired certificate until its timer ends.
func TestRenewsSoonAfterTheClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, id := newTestCA(t), testID(t, "sleep")
		var fetches, jump atomic.Int64
		r := newRenewer(func(context.Context) (*Certificate, error) {
			fetches.Add(1)
			return ca.certificate(id, 24*time.Hour), nil
		}, keepNothing, discardLog())
		r.now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		go r.Run(t.Context())
		<-r.first
		time.Sleep(time.Hour)
		jump.Store(int64(20 * time.Hour))
		time.Sleep(nap + time.Second)
		synctest.Wait()
		if n := fetches.Load(); n != 2 {
			t.Errorf("%d fetches a minute after the clock jumped past the half-life, want 2", n)
		}
		jump.Store(0) // and back: the timer counts, half of the four hours that seemed left
		time.Sleep(3 * time.Hour)
		if n := fetches.Load(); n != 3 {
			t.Errorf("%d fetches after the clock jumped back, want 3", n)
		}
	})
}

func TestDelays(t *testing.T) {
	now := time.Now()
	for failures := 1; failures < 100; failures++ {
		low, high := retryDelay(failures, 0), retryDelay(failures, 0.999)
		if low < firstRetry/2 || high > lastRetry || low > high {
			t.Errorf("after %d failures: %v to %v", failures, low, high)
		}
	}
	if got := renewalDelay(now, now.Add(-time.Hour), 0.5); got != firstRetry {
		t.Errorf("expired: renewed after %v, want at once, but not without a pause", got)
	}
}
