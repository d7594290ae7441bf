package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func testTokens(t *testing.T, l lab) {
	const ns = "tokens"
	l.namespace(t, ns, nil)
	account := l.account(t, ns, "sleep")
	pod, err := l.admin.Client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "sleep-1"},
		Spec: corev1.PodSpec{
			ServiceAccountName: "sleep", AutomountServiceAccountToken: new(bool),
			Containers: []corev1.Container{{Name: "sleep", Image: "sleep"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := func(audience string) string {
		t.Helper()
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences:      []string{audience},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}}
		answer, err := l.admin.Client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), account.Name, request, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status.Token
	}
	reviewer := l.as(t, allow("authentication.k8s.io", "tokenreviews", "create")).Tokens([]string{mesh.TokenAudience}, patience)

	good := token(mesh.TokenAudience)
	want := TokenCaller{Namespace: ns, Account: "sleep", UID: string(account.UID), PodName: pod.Name, PodUID: string(pod.UID)}
	got, err := reviewer.Review(t.Context(), good)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v, caller (-want +got): %s", err, diff)
	}

	refused := func(name, token string) {
		t.Helper()
		caller, err := reviewer.Review(t.Context(), token)
		if !errors.Is(err, ErrUnauthenticated) || caller != (TokenCaller{}) {
			t.Errorf("%s: %v, %v", name, caller, err)
			return
		}
		t.Logf("%s: %v", name, err)
		if token != "" && strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error holds the token", name)
		}
	}
	header, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	refused("wrong audience", token("https://kubernetes.default.svc.cluster.local"))
	refused("no token", "")
	refused("garbage", "garbage")
	refused("garbage in three parts", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.")
	refused("foreign signature", header+"."+payload+"."+strings.Repeat("A", len(signature)))
	refused("line break", good+"\n"+good)
	refused("too long", strings.Repeat("x", maxToken+1))

	// Each is shown once: the API server remembers for 10 s that a token was good. That the pod
	// is gone it hears from a watch of its own, a moment later or more.
	fresh := make([]string, 50)
	for i := range fresh {
		fresh[i] = token(mesh.TokenAudience)
	}
	now := int64(0)
	if err := l.admin.Client.CoreV1().Pods(ns).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	for i, last := range fresh[1:] {
		if _, err := reviewer.Review(t.Context(), last); err != nil {
			break
		}
		<-time.After(time.Duration(i) * 100 * time.Millisecond) // two minutes in all
	}
	refused("deleted pod", fresh[0])
}

func TestRedact(t *testing.T) {
	for _, c := range []struct{ text, token, want string }{
		{"bad token abc", "abc", "bad token [token]"},
		{"header aaaaaaaa is odd", "aaaaaaaa.bbbbbbbb.cc", "header [token] is odd"},
		{"aaaaaaaa.bbbbbbbb.cc", "aaaaaaaa.bbbbbbbb.cc", "[token]"},
		{"nothing of it", "aaaaaaaa.bbbbbbbb.cc", "nothing of it"},
		{"an a is no secret", "a.b.c", "an a is no secret"},
	} {
		if got := redact(c.text, c.token); got != c.want {
			t.Errorf("%q without %q: %q", c.text, c.token, got)
		}
	}
}

// However many strangers send tokens at once, the API server sees a bounded number
// of reviews: our leases and writes wait in the same queue there.
func TestReviewsAtATime(t *testing.T) {
	var now, most atomic.Int32
	full := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for last := most.Load(); n > last && !most.CompareAndSwap(last, n); last = most.Load() {
		}
		<-full // until there are as many as there may be
		<-time.After(20 * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{}}`)
	}))
	defer server.Close()
	release := sync.OnceFunc(func() { close(full) })
	defer release()
	api, err := open(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	reviewer := api.Tokens([]string{"istio-ca"}, patience)
	var storm sync.WaitGroup
	for range 4 * maxReviews {
		storm.Go(func() {
			if _, err := reviewer.Review(t.Context(), "token"); !errors.Is(err, ErrUnauthenticated) {
				t.Error(err)
			}
		})
	}
	within(t, func() error {
		if n := now.Load(); n < maxReviews {
			return fmt.Errorf("%d reviews at a time", n)
		}
		return nil
	})
	release()
	storm.Wait()
	if got := most.Load(); got != maxReviews {
		t.Errorf("%d reviews at a time, want %d", got, maxReviews)
	}

	for range maxReviews { // as if none ever ended
		reviewer.slots <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := reviewer.Review(ctx, "token"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a slot: %v", err)
	}
}

// TestReview plays an API server that answers as the real one does only on bad days.
func TestReview(t *testing.T) {
	const token = "aaaaaaaaaaaa.bbbbbbbbbbbb.cccccccccccc"
	ok := func() authenticationv1.TokenReviewStatus {
		return authenticationv1.TokenReviewStatus{
			Authenticated: true,
			Audiences:     []string{"istio-ca"},
			User: authenticationv1.UserInfo{
				Username: "system:serviceaccount:shop:cart", UID: "u1",
				Groups: []string{"system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"},
			},
		}
	}
	status := func(change func(*authenticationv1.TokenReviewStatus)) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			s := ok()
			change(&s)
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(&authenticationv1.TokenReview{
				TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Status: s,
			}); err != nil {
				t.Error(err)
			}
		}
	}
	fails := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "about "+token, code) }
	}
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  error
	}{
		"good":               {status(func(*authenticationv1.TokenReviewStatus) {}), nil},
		"not accepted":       {status(func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false }), ErrUnauthenticated},
		"error with token":   {status(func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false; s.Error = "bad: " + token }), ErrUnauthenticated},
		"error with part":    {status(func(s *authenticationv1.TokenReviewStatus) { s.Authenticated = false; s.Error = "bad: bbbbbbbbbbbb" }), ErrUnauthenticated},
		"accepted and error": {status(func(s *authenticationv1.TokenReviewStatus) { s.Error = "half" }), ErrUnauthenticated},
		"no audiences":       {status(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil }), ErrUnauthenticated},
		"other audience":     {status(func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"api"} }), ErrUnauthenticated},
		"a person":           {status(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "alice" }), ErrUnauthenticated},
		"a node":             {status(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:node:n1" }), ErrUnauthenticated},
		"three parts":        {status(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount:shop" }), ErrUnauthenticated},
		"five parts":         {status(func(s *authenticationv1.TokenReviewStatus) { s.User.Username += ":x" }), ErrUnauthenticated},
		"empty part":         {status(func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount::cart" }), ErrUnauthenticated},
		"no group":           {status(func(s *authenticationv1.TokenReviewStatus) { s.User.Groups = nil }), ErrUnauthenticated},
		"other group":        {status(func(s *authenticationv1.TokenReviewStatus) { s.User.Groups[1] = "system:serviceaccounts:bank" }), ErrUnauthenticated},
		"no UID":             {status(func(s *authenticationv1.TokenReviewStatus) { s.User.UID = "" }), ErrUnauthenticated},
		"500":                {fails(http.StatusInternalServerError), ErrUnavailable},
		"503":                {fails(http.StatusServiceUnavailable), ErrUnavailable},
		"429":                {fails(http.StatusTooManyRequests), ErrUnavailable},
		"401 to us":          {fails(http.StatusUnauthorized), ErrUnavailable},
		"403 to us":          {fails(http.StatusForbidden), ErrUnavailable},
		"not JSON":           {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, ErrUnavailable},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client leaves
			<-r.Context().Done()
		}, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(c.serve)
			defer server.Close()
			api, err := open(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			timeout := patience
			if name == "hangs" {
				timeout = 300 * time.Millisecond
			}
			caller, err := api.Tokens([]string{"istio-ca"}, timeout).Review(ctx, token)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, %v", caller, err)
			}
			if ctx.Err() != nil {
				t.Error("ended with its caller")
			}
			if err == nil {
				if diff := cmp.Diff(TokenCaller{Namespace: "shop", Account: "cart", UID: "u1"}, caller); diff != "" {
					t.Errorf("caller (-want +got): %s", diff)
				}
				return
			}
			for _, part := range append(strings.Split(token, "."), token) {
				if strings.Contains(err.Error(), part) {
					t.Errorf("the error holds %q: %v", part, err)
				}
			}
			if apierrors.IsUnauthorized(err) {
				t.Error("the API server's refusal of us reads as the caller's")
			}
		})
	}
}
