package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestBreaker(t *testing.T) {
	var b breaker
	now := time.Unix(0, 0)
	enter := func(want bool) {
		t.Helper()
		if got := b.enter(now); got != want {
			t.Fatalf("at %v: enter %t, want %t", now.Sub(time.Unix(0, 0)), got, want)
		}
	}
	for range breakAfter - 1 {
		enter(true)
		b.leave(now, failed)
	}
	enter(true)
	b.leave(now, answered) // in a row, not in all
	for range breakAfter {
		enter(true)
		b.leave(now, failed)
	}
	enter(false)
	if open, failures := b.state(); !open || failures != 2*breakAfter-1 {
		t.Errorf("open %t after %d failures", open, failures)
	}
	now = now.Add(breakFor)
	enter(true)
	enter(false) // one at a time
	b.leave(now, failed)
	enter(false)
	now = now.Add(breakFor)
	enter(true)
	b.leave(now, withdrawn) // says nothing, and must not keep the next one out
	enter(true)
	b.leave(now, answered)
	for range 3 {
		enter(true)
	}
	if open, _ := b.state(); open {
		t.Error("open after an answer")
	}
}

// reviewAPI is an API server's token review as a function.
type reviewAPI func(context.Context) error

func (f reviewAPI) Create(ctx context.Context, _ *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	if err := f(ctx); err != nil {
		return nil, err
	}
	return &authenticationv1.TokenReview{Status: authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: []string{"istio-ca"},
		User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:shop:cart", UID: "a1", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:shop"},
			Extra: map[string]authenticationv1.ExtraValue{podNameExtra: {"cart-1"}, podUIDExtra: {"p1"}, nodeNameExtra: {"n1"}},
		},
	}}, nil
}

func reviewerOf(f reviewAPI) *TokenReviewer {
	return &TokenReviewer{client: f, audiences: []string{"istio-ca"}, timeout: defaultReviewTimeout, slots: make(chan struct{}, maxReviews)}
}

// hang is an API server that takes requests and answers none.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A caller who leaves early is no failure of the API server: strangers could keep all
// others out by that.
func TestReviewWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reviewerOf(hang)
		for range 3 * breakAfter {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := r.Review(ctx, "token"); !errors.Is(err, ErrUnavailable) {
				t.Fatal(err)
			}
			cancel()
		}
		if open, failures := r.breaker.state(); open || failures > 0 {
			t.Errorf("open %t, %d failures", open, failures)
		}
	})
}

// Time in our own queue is not the API server's: it does not count as a failure, and
// leaves a review that comes to its turn late the time that every other has.
func TestReviewWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reviewerOf(func(ctx context.Context) error {
			select {
			case <-time.After(defaultReviewTimeout / 2): // slow, but sound
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		storm := func(ctx context.Context) (answers int) {
			errs := make(chan error, 8*maxReviews)
			for range cap(errs) {
				go func() { // each is waited for below
					_, err := r.Review(ctx, "token")
					errs <- err
				}()
			}
			for range cap(errs) {
				switch err := <-errs; {
				case err == nil:
					answers++
				case !errors.Is(err, ErrUnavailable):
					t.Error(err)
				}
			}
			return answers
		}
		if n := storm(t.Context()); n < 2*maxReviews {
			t.Errorf("%d answers, though the API server gave each", n)
		}
		for range maxReviews - 1 { // which never end
			r.slots <- struct{}{}
		}
		if n := storm(t.Context()); n < 1 {
			t.Error("no answer in the one slot that is left")
		}
		if open, failures := r.breaker.state(); open || failures > 0 {
			t.Errorf("open %t, %d failures", open, failures)
		}
	})
}
