package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoadKeepsClientsBusyForItsSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, err := load{clients: 4, span: time.Second, limit: 1000}.run(t.Context(), func(_ context.Context, client, _ int) error {
			time.Sleep(time.Duration(client+1) * 10 * time.Millisecond)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// Clients that take 10, 20, 30 and 40 ms send as long as the second lasts.
		if want := 101 + 51 + 34 + 26; o.requests() != want {
			t.Errorf("%d requests, want %d", o.requests(), want)
		}
		if got := o.quantile(0.1); got != 10*time.Millisecond {
			t.Errorf("p10 %v, want 10ms", got)
		}
		if got := o.quantile(1); got != 40*time.Millisecond {
			t.Errorf("maximum %v, want 40ms", got)
		}
	})
}

func TestLoadEndsAtItsLimit(t *testing.T) {
	o, err := load{clients: 4, span: time.Hour, limit: 40}.run(t.Context(), func(context.Context, int, int) error { return nil })
	if err != nil || o.requests() != 40 {
		t.Errorf("%d requests, %v; want 40, nil", o.requests(), err)
	}
}

func TestLoadEndsAtTheFirstWrongAnswer(t *testing.T) {
	wrong := errors.New("status 500")
	_, err := load{clients: 4, span: time.Hour, limit: 1 << 40}.run(t.Context(), func(_ context.Context, client, n int) error {
		if client == 2 && n == 3 {
			return wrong
		}
		return nil
	})
	if !errors.Is(err, wrong) {
		t.Errorf("run = %v, want %v", err, wrong)
	}
}
