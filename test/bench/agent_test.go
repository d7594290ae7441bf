package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An agent sends what may be sent again five times with short pauses, all else once;
// then it dials anew, after pauses that double up to a minute.
func TestPersist(t *testing.T) {
	for name, c := range map[string]struct {
		code          codes.Code
		fails         int           // before there is an answer
		redials       int           //
		least, most   time.Duration // that it takes
		cancelled     time.Duration // 0: never
		askedInTheEnd int
	}{
		"at once":        {codes.OK, 0, 0, 0, 0, 0, 1},
		"the fifth time": {codes.ResourceExhausted, 4, 0, 1350 * time.Millisecond, 1650 * time.Millisecond, 0, 5},
		"the sixth":      {codes.Unavailable, 5, 1, 1850 * time.Millisecond, 2150 * time.Millisecond, 0, 6},
		"no retry":       {codes.Unauthenticated, 3, 3, 3500 * time.Millisecond, 3500 * time.Millisecond, 0, 4},
		"a minute":       {codes.InvalidArgument, 9, 9, 63500*time.Millisecond + 120*time.Second, 63500*time.Millisecond + 120*time.Second, 0, 10},
		"cancelled":      {codes.InvalidArgument, 99, 2, time.Second, time.Second, time.Second, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.cancelled > 0 {
					time.AfterFunc(c.cancelled, cancel)
				}
				n, redials, begin := 0, 0, time.Now()
				asked, err := persist(ctx, func(context.Context) error {
					if n++; n <= c.fails {
						return status.Error(c.code, "no")
					}
					return nil
				}, func() { redials++ })
				took := time.Since(begin)
				if asked != c.askedInTheEnd || asked != n || redials != c.redials || took < c.least || took > c.most || (err != nil) != (c.cancelled > 0) {
					t.Errorf("asked %d times, dialled %d times anew, took %v: %v", asked, redials, took, err)
				}
			})
		})
	}
}

func TestParsePeak(t *testing.T) {
	if n, err := parsePeak("Name:\tcitadel\nVmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n"); n != 2<<20 || err != nil {
		t.Error(n, err)
	}
	if _, err := parsePeak("Name:\tcitadel\n"); err == nil {
		t.Error("no error without a peak")
	}
}

func TestSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := steady(t.Context(), 10, 20, func(_ context.Context, _, n int) error {
			time.Sleep(time.Duration(n) * time.Second) // later ones do not wait for it
			return nil
		})
		if err != nil || o.requests() != 20 || o.quantile(0) != 0 || o.quantile(1) != 19*time.Second || o.took > 22*time.Second {
			t.Errorf("%+v, %v", o, err)
		}
		bad := errors.New("bad")
		if _, err := steady(t.Context(), 10, 20, func(context.Context, int, int) error { return bad }); !errors.Is(err, bad) {
			t.Errorf("%v", err)
		}
	})
}
