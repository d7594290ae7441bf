package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestAbuse holds what this package owes of the abuse cases of the CA, by their
// numbers there. Time in them is not real.
func TestAbuse(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"10_token_for_the_api_server":    abuseOwnAudience,
		"11_token_without_pod":           abuseNoPod,
		"12_token_of_a_deleted_pod":      abuseDeleted,
		"13_token_too_large":             abuseLarge,
		"21_token_review_hangs_or_fails": abuseReview,
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// Every pod has a token for the API server; it must not be worth a certificate,
// neither by local verification nor by a review that knows no audiences.
func abuseOwnAudience(t *testing.T) {
	j := newJudge(t, VerifyAuto)
	for _, audience := range []any{testIssuer, []string{testIssuer, "k3s"}, []string{}, nil} {
		token := sign(t, ecKey(), byEC, with(cartClaims(time.Now()), "aud", audience))
		if caller, err := j.Review(t.Context(), token); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("audience %v: %v, %v", audience, caller, err)
		}
	}
	if n := j.reviews.Load(); n != 0 {
		t.Errorf("%d reviews, which could have been asked without audiences", n)
	}
}

// Who calls by a token without a pod is told from one with a pod, so that it can be
// refused: a UID that is empty is no UID that was not looked for.
func abuseNoPod(t *testing.T) {
	podless := with(with(cartClaims(time.Now()), ".pod", nil), ".node", nil)
	j := newJudge(t, VerifyAuto)
	caller, err := j.Review(t.Context(), sign(t, ecKey(), byEC, podless))
	if err != nil || caller.PodUID != "" || caller.PodName != "" || caller.Node != "" {
		t.Errorf("%+v, %v", caller, err)
	}
	// A Secret's token of the old kind has another issuer, no audience and no end.
	old := dict{"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:shop:cart",
		"kubernetes.io/serviceaccount/namespace": "shop", "kubernetes.io/serviceaccount/service-account.uid": "a1"}
	if caller, err := j.Review(t.Context(), sign(t, ecKey(), byEC, old)); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("old kind: %+v, %v", caller, err)
	}
}

// A token that is good for another hour is worth nothing as soon as the watch has told
// that its pod or account is gone; and where the watch tells nothing any more, no
// later than the window.
func abuseDeleted(t *testing.T) {
	account, pod := cartAccount("a1"), cartPod(nil)
	token := sign(t, ecKey(), byEC, cartClaims(time.Now()))
	terminating := func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()) }
	for name, gone := range map[string]func(*Workloads) error{
		"pod":                 func(w *Workloads) error { return w.pods.Delete(pod) },
		"pod, which is to go": func(w *Workloads) error { return w.pods.Update(cartPod(terminating)) },
		"pod, which has ended": func(w *Workloads) error {
			return w.pods.Update(cartPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }))
		},
		"account":                 func(w *Workloads) error { return w.accounts.Delete(account) },
		"account, after a relist": func(w *Workloads) error { return w.accounts.Replace(nil, "11") },
	} {
		// The API server itself says yes: of a pod that is to go for a minute more than it
		// was given, and of one that has ended for as long as it is there.
		for how, j := range map[string]*judge{
			"local": newJudge(t, VerifyAuto), "review": newJudge(t, VerifyReview), "fallen back": newJudge(t, VerifyAuto),
		} {
			if how == "fallen back" {
				j.api.err = errors.New("forbidden")
			}
			if _, err := j.Review(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			j.view, _ = viewOf(t, []apiruntime.Object{account, pod}, nil) // the storage has neither any more
			j.workloads = j.view
			if err := gone(j.view); err != nil {
				t.Fatal(err)
			}
			if caller, err := j.Review(t.Context(), token); !errors.Is(err, ErrUnauthenticated) || caller != (TokenCaller{}) {
				t.Errorf("%s, %s: %+v, %v", name, how, caller, err)
			}
			if n := j.reviews.Load(); (n == 0) != (how == "local") {
				t.Errorf("%s, %s: %d reviews", name, how, n)
			}
		}
	}
	j := newJudge(t, VerifyLocal)
	j.view, _ = viewOf(t, []apiruntime.Object{account, pod}, nil)
	j.workloads = j.view // deleted now, and the watch is stuck
	time.Sleep(DefaultWindow + time.Second)
	if caller, err := j.Review(t.Context(), token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after the window: %+v, %v", caller, err)
	}
	if err := j.view.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, "cart-1", "p1"); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("after the window, read live: %v", err)
	}
}

// What no token can be is refused before anybody parses it or sends it on.
func abuseLarge(t *testing.T) {
	for _, mode := range []Verification{VerifyAuto, VerifyLocal, VerifyReview} {
		j := newJudge(t, mode)
		good := sign(t, ecKey(), byEC, with(cartClaims(time.Now()), "padding", strings.Repeat("x", maxToken)))
		for _, token := range []string{good, strings.Repeat("x", 1<<20), strings.Repeat(".", maxToken+1)} {
			if _, err := j.Review(t.Context(), token); !errors.Is(err, ErrUnauthenticated) || len(err.Error()) > 100 {
				t.Errorf("%s, %d bytes: %.200v", mode, len(token), err)
			}
		}
		if n := j.reviews.Load() + j.api.reads.Load(); n != 0 {
			t.Errorf("%s: %d requests to the API server", mode, n)
		}
	}
}

// A review that gets no answer is no answer: neither yes nor no, for no longer than its
// timeout, and after a few of them at once, until the API server is back.
func abuseReview(t *testing.T) {
	good := sign(t, ecKey(), byEC, cartClaims(time.Now()))
	for name, fails := range map[string]func(context.Context) error{
		"hangs": hang,
		"429":   func(context.Context) error { return apierrors.NewTooManyRequests("later", 1) },
		"500":   func(context.Context) error { return apierrors.NewInternalError(errors.New("x")) },
		"401":   func(context.Context) error { return apierrors.NewUnauthorized("we are nobody") },
	} {
		asked, broken := 0, true
		j := newJudge(t, VerifyReview)
		j.reviewer = reviewerOf(func(ctx context.Context) error {
			if asked++; broken {
				return fails(ctx)
			}
			return nil
		})
		review := func() (took time.Duration, err error) {
			start := time.Now()
			_, err = j.Review(t.Context(), good)
			return time.Since(start), err
		}
		for range breakAfter {
			if took, err := review(); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnauthenticated) || took > defaultReviewTimeout {
				t.Errorf("%s: after %v: %v", name, took, err)
			}
		}
		for range 1000 {
			if took, err := review(); !errors.Is(err, ErrUnavailable) || took > 0 {
				t.Errorf("%s, kept back: after %v: %v", name, took, err)
			}
		}
		if asked != breakAfter {
			t.Errorf("%s: the API server was asked %d times", name, asked)
		}
		if open, failures := j.reviewer.breaker.state(); !open || failures != breakAfter {
			t.Errorf("%s: open %t after %d failures", name, open, failures)
		}
		time.Sleep(breakFor)
		broken = false
		for range 2 {
			if _, err := review(); err != nil {
				t.Errorf("%s, back: %v", name, err)
			}
		}
	}
}
