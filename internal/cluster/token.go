package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
)

// What [TokenReviewer], [LocalTokens] and [Workloads] fail with; the errors wrap one
// of them.
var (
	// ErrUnauthenticated: the token proves no service account for the audience, or
	// its account or pod lives no more. Asking again will not help.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrUnavailable: it cannot be told now, and nothing is known against the caller.
	ErrUnavailable = errors.New("authentication unavailable")
)

const (
	maxToken             = 16 << 10 // bytes; real ones are near 1 KiB
	defaultReviewTimeout = 3 * time.Second

	// maxReviews is how many reviews may be under way at a time; others wait for
	// their turn. Whoever can reach us can ask for one.
	maxReviews = 64

	serviceAccountPrefix = "system:serviceaccount:" // of user names
	serviceAccountsGroup = "system:serviceaccounts"

	podNameExtra  = "authentication.kubernetes.io/pod-name"
	podUIDExtra   = "authentication.kubernetes.io/pod-uid"
	nodeNameExtra = "authentication.kubernetes.io/node-name"
)

// TokenCaller is who a service account token proves.
type TokenCaller struct {
	Namespace string
	Account   string
	UID       string // of the account

	// The pod that the token is bound to; both empty for a token without one.
	PodName string
	PodUID  string
	Node    string // that the pod runs on; empty where the token does not say

	Local bool // the token was verified here, not by the API server
}

// TokenReviewer asks the API server whom a token proves. It remembers no token.
type TokenReviewer struct {
	client    authenticationclient.TokenReviewInterface
	audiences []string
	timeout   time.Duration
	slots     chan struct{} // one for each review under way
	breaker   breaker
}

// Tokens returns a reviewer of tokens made for one of the audiences. The timeout
// bounds each review, 0 means 3 s; a fixed number of them is under way at a time, and
// as long again is how long one waits for its turn at most. After several failures in
// a row it answers [ErrUnavailable] at once, and tries again every few seconds.
func (a *API) Tokens(audiences []string, timeout time.Duration) *TokenReviewer {
	if timeout == 0 {
		timeout = defaultReviewTimeout
	}
	return &TokenReviewer{
		client:    a.reviews.AuthenticationV1().TokenReviews(),
		audiences: audiences,
		timeout:   timeout,
		slots:     make(chan struct{}, maxReviews),
	}
}

// Review returns the service account that the token proves now, deleted pods and
// accounts excluded. Errors are [ErrUnauthenticated] or [ErrUnavailable] and never
// hold the token.
func (r *TokenReviewer) Review(ctx context.Context, token string) (TokenCaller, error) {
	if err := checkSize(token); err != nil {
		return TokenCaller{}, err
	}
	leave, err := r.turn(ctx)
	if err != nil {
		return TokenCaller{}, err
	}
	defer leave()
	if !r.breaker.enter(time.Now()) {
		return TokenCaller{}, fmt.Errorf("%w: the API server has not answered %d reviews in a row, the next try is within %v",
			ErrUnavailable, breakAfter, breakFor)
	}
	within, cancel := context.WithTimeout(ctx, r.timeout) // from here on: our own queue is no failure of the API server's
	defer cancel()
	review, err := r.client.Create(within, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: r.audiences},
	}, metav1.CreateOptions{})
	switch {
	case err == nil:
		r.breaker.leave(time.Now(), answered)
	case ctx.Err() != nil: // the caller left before our own time was up
		r.breaker.leave(time.Now(), withdrawn)
	default:
		r.breaker.leave(time.Now(), failed)
	}
	if err != nil {
		return TokenCaller{}, fmt.Errorf("%w: token review: %s", ErrUnavailable, redact(err.Error(), token))
	}
	caller, err := readReview(review.Status, r.audiences)
	if err != nil {
		return TokenCaller{}, fmt.Errorf("%w: %s", ErrUnauthenticated, redact(err.Error(), token))
	}
	return caller, nil
}

// turn waits until one more review may be under way, which it is until leave.
func (r *TokenReviewer) turn(ctx context.Context) (leave func(), err error) {
	within, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-within.Done():
		return nil, fmt.Errorf("%w: %d reviews are under way", ErrUnavailable, maxReviews)
	}
}

// checkSize refuses what no token can be, before anybody reads it.
func checkSize(token string) error {
	if token == "" {
		return fmt.Errorf("%w: no token", ErrUnauthenticated)
	}
	if len(token) > maxToken {
		return fmt.Errorf("%w: token of %d bytes, at most %d", ErrUnauthenticated, len(token), maxToken)
	}
	return nil
}

// readReview takes a review's answer apart. An API server that does not know
// audiences answers without any, and its word is then worth nothing here.
func readReview(s authenticationv1.TokenReviewStatus, audiences []string) (TokenCaller, error) {
	if !s.Authenticated {
		if s.Error != "" {
			return TokenCaller{}, errors.New(s.Error)
		}
		return TokenCaller{}, errors.New("token not accepted")
	}
	if s.Error != "" {
		return TokenCaller{}, errors.New(s.Error)
	}
	if !overlap(s.Audiences, audiences) {
		return TokenCaller{}, fmt.Errorf("token not for an audience of %q", audiences)
	}
	account, ok := strings.CutPrefix(s.User.Username, serviceAccountPrefix)
	namespace, name, cut := strings.Cut(account, ":")
	if !ok || !cut || namespace == "" || name == "" || strings.Contains(name, ":") {
		return TokenCaller{}, errors.New("user is not a service account")
	}
	for _, group := range []string{serviceAccountsGroup, serviceAccountsGroup + ":" + namespace} {
		if !slices.Contains(s.User.Groups, group) {
			return TokenCaller{}, fmt.Errorf("user is not in group %s", group)
		}
	}
	if s.User.UID == "" {
		return TokenCaller{}, errors.New("service account without UID")
	}
	return TokenCaller{
		Namespace: namespace,
		Account:   name,
		UID:       s.User.UID,
		PodName:   first(s.User.Extra[podNameExtra]),
		PodUID:    first(s.User.Extra[podUIDExtra]),
		Node:      first(s.User.Extra[nodeNameExtra]),
	}, nil
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// redact takes the token, and each part of it that is long enough to be worth
// something, out of a text that others wrote.
func redact(text, token string) string {
	text = strings.ReplaceAll(text, token, "[token]")
	for part := range strings.SplitSeq(token, ".") {
		if len(part) >= 8 {
			text = strings.ReplaceAll(text, part, "[token]")
		}
	}
	return text
}
