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

// What [TokenReviewer.Review] fails with; the errors wrap one of them.
var (
	// ErrUnauthenticated: the token proves no service account for the audience.
	// Asking again will not help.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrUnavailable: the API server gave no answer. The token may be good.
	ErrUnavailable = errors.New("token review unavailable")
)

const (
	maxToken             = 16 << 10 // bytes; real ones are near 1 KiB
	defaultReviewTimeout = 3 * time.Second

	// maxReviews is how many reviews may be under way at a time; others wait for
	// their turn within their timeout. Whoever can reach us can ask for one.
	maxReviews = 64

	serviceAccountPrefix = "system:serviceaccount:" // of user names
	serviceAccountsGroup = "system:serviceaccounts"

	podNameExtra = "authentication.kubernetes.io/pod-name"
	podUIDExtra  = "authentication.kubernetes.io/pod-uid"
)

// TokenCaller is who a service account token proves.
type TokenCaller struct {
	Namespace string
	Account   string
	UID       string // of the account

	// The pod that the token is bound to; both empty for a token without one.
	PodName string
	PodUID  string
}

// TokenReviewer asks the API server whom a token proves. It remembers nothing.
type TokenReviewer struct {
	client   authenticationclient.TokenReviewInterface
	audience string
	timeout  time.Duration
	slots    chan struct{} // one for each review under way
}

// Tokens returns a reviewer of tokens made for the audience. The timeout bounds
// each review, 0 means 3 s; a fixed number of them is under way at a time.
func (a *API) Tokens(audience string, timeout time.Duration) *TokenReviewer {
	if timeout == 0 {
		timeout = defaultReviewTimeout
	}
	return &TokenReviewer{
		client:   a.reviews.AuthenticationV1().TokenReviews(),
		audience: audience,
		timeout:  timeout,
		slots:    make(chan struct{}, maxReviews),
	}
}

// Review returns the service account that the token proves now, deleted pods and
// accounts excluded. Errors are [ErrUnauthenticated] or [ErrUnavailable] and never
// hold the token.
func (r *TokenReviewer) Review(ctx context.Context, token string) (TokenCaller, error) {
	if token == "" {
		return TokenCaller{}, fmt.Errorf("%w: no token", ErrUnauthenticated)
	}
	if len(token) > maxToken {
		return TokenCaller{}, fmt.Errorf("%w: token of %d bytes, at most %d", ErrUnauthenticated, len(token), maxToken)
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return TokenCaller{}, fmt.Errorf("%w: %d reviews are under way", ErrUnavailable, maxReviews)
	}
	review, err := r.client.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{r.audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return TokenCaller{}, fmt.Errorf("%w: %s", ErrUnavailable, redact(err.Error(), token))
	}
	caller, err := readReview(review.Status, r.audience)
	if err != nil {
		return TokenCaller{}, fmt.Errorf("%w: %s", ErrUnauthenticated, redact(err.Error(), token))
	}
	return caller, nil
}

// readReview takes a review's answer apart. An API server that does not know
// audiences answers without any, and its word is then worth nothing here.
func readReview(s authenticationv1.TokenReviewStatus, audience string) (TokenCaller, error) {
	if !s.Authenticated {
		if s.Error != "" {
			return TokenCaller{}, errors.New(s.Error)
		}
		return TokenCaller{}, errors.New("token not accepted")
	}
	if s.Error != "" {
		return TokenCaller{}, errors.New(s.Error)
	}
	if !slices.Contains(s.Audiences, audience) {
		return TokenCaller{}, fmt.Errorf("token not for audience %q", audience)
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
	}, nil
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
