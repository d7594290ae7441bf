package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// leeway is how far this clock and the API server's may be apart, as the API server
// itself has it.
const leeway = time.Minute

// Verification is where tokens are verified.
type Verification string

const (
	// VerifyAuto verifies here, and asks the API server while that cannot be done.
	VerifyAuto Verification = "auto"
	// VerifyLocal verifies here and never asks.
	VerifyLocal Verification = "local"
	// VerifyReview asks the API server about each token.
	VerifyReview Verification = "review"
)

// ParseVerification reads one of the words above.
func ParseVerification(s string) (Verification, error) {
	v := Verification(s)
	if !slices.Contains([]Verification{VerifyAuto, VerifyLocal, VerifyReview}, v) {
		return "", fmt.Errorf("%q: %s, %s or %s", s, VerifyAuto, VerifyLocal, VerifyReview)
	}
	return v, nil
}

// LocalTokenOptions are the settings of [LocalTokens].
type LocalTokenOptions struct {
	Audiences    []string              // a token has to be made for one of them
	Verification Verification          // "": [VerifyAuto]
	Workloads    *Workloads            // which accounts and pods live; it has to run
	Reviewer     *TokenReviewer        // to ask; not needed for [VerifyLocal]
	Log          *slog.Logger          // nil: no log
	Metrics      prometheus.Registerer // nil: no metrics
}

// LocalTokens says whom a service account token proves, without asking anybody where
// that is possible: the signature is checked with the keys that the API server
// publishes, and that account and pod live is what [Workloads] knows. What cannot be
// told so goes to the API server's own review: everything while the keys or the
// watches are too old, tokens bound to Secrets or nodes, and tokens under another
// issuer that the API server's key has signed. To its yes the watches may still say no.
type LocalTokens struct {
	audiences []string
	mode      Verification
	keys      *tokenKeys
	workloads *Workloads
	reviewer  *TokenReviewer

	judged *prometheus.CounterVec // by how, result
	undone *prometheus.CounterVec // by reason
}

// LocalTokens returns a judge of tokens; [LocalTokens.Run] has to run.
func (a *API) LocalTokens(o LocalTokenOptions) *LocalTokens {
	l := &LocalTokens{
		audiences: o.Audiences, mode: o.Verification,
		keys:      newTokenKeys(a.publicDocument, orDiscard(o.Log)),
		workloads: o.Workloads, reviewer: o.Reviewer,
	}
	if l.mode == "" {
		l.mode = VerifyAuto
	}
	l.register(o.Metrics)
	return l
}

// publicDocument reads what the API server says of its tokens. It is the server that
// this process is connected to: no token and no document can name another.
func (a *API) publicDocument(ctx context.Context, path string) ([]byte, error) {
	var code int
	data, err := a.reviews.Discovery().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json, application/jwk-set+json").Do(ctx).StatusCode(&code).Raw()
	if err != nil && code != 0 {
		return nil, fmt.Errorf("status %d", code) // what it says besides is in JSON, which this client does not read
	}
	return data, err
}

// OwnAudiences returns the audiences that the API server takes tokens for itself by,
// as far as they can be known: the issuer, which is the only one unless its operator
// named others, and those of the token that this process is let in with. With an
// error, the others are returned.
func (a *API) OwnAudiences(ctx context.Context) ([]string, error) {
	own := audiencesOf(a.token)
	about, err := a.publicDocument(ctx, discoveryPath)
	if err != nil {
		return own, fmt.Errorf("%s: %w", discoveryPath, err)
	}
	issuer, err := parseIssuer(about)
	if err != nil {
		return own, fmt.Errorf("%s: %w", discoveryPath, err)
	}
	return append(own, issuer), nil
}

// audiencesOf returns the audiences of a token of our own, which the API server has
// verified if it lets us in. What is no such token has none.
func audiencesOf(token string) []string {
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil
	}
	var c jwt.Claims
	if json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &c) != nil {
		return nil
	}
	return c.Audience
}

// Why a token was not judged here, as the metric has it.
const (
	undoneKeys     = "keys"     // not read, or too long ago
	undoneView     = "view"     // the watches are older than the window
	undoneLookups  = "lookups"  // too many, or they failed
	undoneBinding  = "binding"  // to a Secret or a node
	undoneIssuer   = "issuer"   // not the one that is published
	howLocal       = "local"    // judged here
	howReview      = "review"   // judged by the API server
	resultAccepted = "accepted" // it proves somebody
	resultRefused  = "refused"  // it proves nobody
	resultNone     = "unavailable"
)

func (l *LocalTokens) register(r prometheus.Registerer) {
	f := promauto.With(r)
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "citadel", Subsystem: "server", Name: name, Help: help}
	}
	l.judged = f.NewCounterVec(prometheus.CounterOpts(opts("tokens_judged_total",
		"Tokens by where they were verified and with what result.")), []string{"how", "result"})
	l.undone = f.NewCounterVec(prometheus.CounterOpts(opts("token_fallbacks_total",
		"Tokens that could not be verified locally, by reason.")), []string{"reason"})
	for _, result := range []string{resultAccepted, resultRefused, resultNone} { // a series from the start, so that rates are right
		l.judged.WithLabelValues(howLocal, result)
		l.judged.WithLabelValues(howReview, result)
	}
	for _, reason := range []string{undoneKeys, undoneView, undoneLookups, undoneBinding, undoneIssuer} {
		l.undone.WithLabelValues(reason)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts(opts("token_verification_local", "1 while tokens are verified locally.")), func() float64 {
		if _, err := l.keys.usable(); err != nil || l.mode == VerifyReview || l.workloads.Ready() != nil {
			return 0
		}
		return 1
	})
	if l.reviewer == nil {
		return
	}
	f.NewGaugeFunc(prometheus.GaugeOpts(opts("token_review_breaker_open",
		"1 while the API server is asked nothing because it did not answer.")), func() float64 {
		if open, _ := l.reviewer.breaker.state(); open {
			return 1
		}
		return 0
	})
	f.NewCounterFunc(prometheus.CounterOpts(opts("token_review_failures_total",
		"Token reviews that the API server did not answer.")), func() float64 {
		_, failures := l.reviewer.breaker.state()
		return float64(failures)
	})
}

// Run keeps the keys young until ctx ends.
func (l *LocalTokens) Run(ctx context.Context) error {
	if l.mode != VerifyReview {
		l.keys.run(ctx)
	}
	return nil
}

// Ready reports why no token can be judged yet, for readiness: only [VerifyLocal] has
// nobody to ask until keys and watches are there.
func (l *LocalTokens) Ready() error {
	if l.mode != VerifyLocal {
		return nil
	}
	if l.keys.current.Load() == nil {
		return errors.New("token keys not read yet")
	}
	if !l.workloads.listed() {
		return errors.New("pods and service accounts not listed yet")
	}
	return nil
}

// undecided is why a token cannot be judged here.
type undecided struct {
	reason string
	cause  error
}

func (u *undecided) Error() string { return u.cause.Error() }
func (u *undecided) Unwrap() error { return u.cause }

// Review returns the service account and the pod that the token proves. Errors are
// [ErrUnauthenticated] or [ErrUnavailable] and never hold the token.
func (l *LocalTokens) Review(ctx context.Context, token string) (TokenCaller, error) {
	if err := checkSize(token); err != nil {
		l.count(howLocal, err)
		return TokenCaller{}, err
	}
	if l.mode != VerifyReview {
		caller, err := l.judge(ctx, token)
		u, open := errors.AsType[*undecided](err)
		if !open {
			l.count(howLocal, err)
			return caller, err
		}
		l.undone.WithLabelValues(u.reason).Inc()
		if l.mode == VerifyLocal {
			if u.reason == undoneBinding || u.reason == undoneIssuer { // waiting would not help
				err = fmt.Errorf("%w: %w", ErrUnauthenticated, u.cause)
			} else if !errors.Is(err, ErrUnavailable) {
				err = fmt.Errorf("%w: %w", ErrUnavailable, u.cause)
			}
			l.count(howLocal, err)
			return TokenCaller{}, err
		}
	}
	caller, err := l.reviewer.Review(ctx, token)
	if err == nil {
		if err = l.outlived(ctx, caller); err != nil {
			caller = TokenCaller{}
		}
	}
	l.count(howReview, err)
	return caller, err
}

// outlived returns why a caller whom the API server has named is nobody any more, by
// the watches, or nil where these cannot tell. The API server itself takes tokens of
// pods that have ended, and of those that are to go until a minute after they should
// have gone.
func (l *LocalTokens) outlived(ctx context.Context, c TokenCaller) error {
	if l.workloads.Ready() != nil {
		return nil
	}
	_, err := l.workloads.find(ctx, claim{key{Namespace: c.Namespace, Name: c.Account}, c.UID, c.PodName, c.PodUID})
	if errors.Is(err, ErrUnauthenticated) {
		return err
	}
	return nil
}

func (l *LocalTokens) count(how string, err error) {
	result := resultNone
	switch {
	case err == nil:
		result = resultAccepted
	case errors.Is(err, ErrUnauthenticated):
		result = resultRefused
	}
	l.judged.WithLabelValues(how, result).Inc()
}

// judge verifies a token here. The order is from the cheap to the dear, and nothing
// is asked of anybody for a token that the API server's key has not signed, but for
// the keys themselves.
func (l *LocalTokens) judge(ctx context.Context, token string) (TokenCaller, error) {
	refuse := func(format string, args ...any) (TokenCaller, error) {
		return TokenCaller{}, fmt.Errorf("%w: "+format, append([]any{ErrUnauthenticated}, args...)...)
	}
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return refuse("token: %.100s", redact(err.Error(), token)) // strangers write part of it
	}
	header := signed.Signatures[0].Protected // jku, jwk, x5c and x5u stand there too and mean nothing
	if header.KeyID == "" {
		return refuse("token names no key")
	}
	known, issuer, err := l.keys.find(ctx, header.KeyID)
	switch {
	case errors.Is(err, ErrUnauthenticated):
		return TokenCaller{}, err
	case err != nil:
		return TokenCaller{}, &undecided{undoneKeys, err}
	case header.Algorithm != string(known.algorithm):
		return refuse("token is signed with %s, its key is for %s", header.Algorithm, known.algorithm)
	case slices.Contains(l.audiences, issuer):
		return TokenCaller{}, fmt.Errorf("%w: audience %q is the API server's own", ErrUnavailable, issuer)
	}
	payload, err := signed.Verify(known.public)
	if err != nil {
		return refuse("token: %s", redact(err.Error(), token))
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return refuse("token: %s", redact(err.Error(), token))
	}
	if err := c.check(l.audiences, time.Now()); err != nil {
		return TokenCaller{}, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	k := c.Kubernetes
	switch {
	case c.Issuer != issuer:
		return TokenCaller{}, &undecided{undoneIssuer, errors.New("token of another issuer than the API server names")}
	case k.Pod == nil && (k.Secret != nil || k.Node != nil):
		return TokenCaller{}, &undecided{undoneBinding, errors.New("token bound to no pod but to a Secret or a node")}
	}
	if err := l.workloads.Ready(); err != nil { // one review is cheaper than two live reads
		return TokenCaller{}, &undecided{undoneView, err}
	}
	caller := TokenCaller{Namespace: k.Namespace, Account: k.ServiceAccount.Name, UID: k.ServiceAccount.UID, Local: true}
	of := claim{account: key{Namespace: k.Namespace, Name: k.ServiceAccount.Name}, accountUID: k.ServiceAccount.UID}
	if k.Pod != nil {
		caller.PodName, caller.PodUID = k.Pod.Name, k.Pod.UID
		of.podName, of.podUID = k.Pod.Name, k.Pod.UID
	}
	pod, err := l.workloads.find(ctx, of)
	if errors.Is(err, ErrUnavailable) {
		return TokenCaller{}, &undecided{undoneLookups, err}
	}
	if err != nil {
		return TokenCaller{}, err
	}
	caller.Node = pod.Node
	return caller, nil
}

// claims are what a token says, as Kubernetes writes it.
type claims struct {
	jwt.Claims
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount bound  `json:"serviceaccount"`
		Pod            *bound `json:"pod"`
		Secret         *bound `json:"secret"`
		Node           *bound `json:"node"`
	} `json:"kubernetes.io"`
}

// bound is an object that a token is bound to.
type bound struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// check returns what is missing or wrong in what a signed token says. Whether its
// objects live is another question.
func (c claims) check(audiences []string, now time.Time) error {
	k := c.Kubernetes
	switch {
	case !overlap(c.Audience, audiences):
		return fmt.Errorf("token not for an audience of %q", audiences)
	case c.Expiry == nil:
		return errors.New("token without an end")
	case !now.Before(c.Expiry.Time().Add(leeway)):
		return fmt.Errorf("token expired %v ago", now.Sub(c.Expiry.Time()).Round(time.Second))
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()), c.IssuedAt != nil && now.Add(leeway).Before(c.IssuedAt.Time()):
		return errors.New("token from the future: this clock is late, or the API server's early")
	case k.Namespace == "", k.ServiceAccount.Name == "", k.ServiceAccount.UID == "":
		return errors.New("token of no service account")
	case c.Subject != serviceAccountPrefix+k.Namespace+":"+k.ServiceAccount.Name:
		return errors.New("token whose subject is not its service account")
	case k.Pod != nil && (k.Pod.Name == "" || k.Pod.UID == ""):
		return errors.New("token of half a pod")
	}
	return nil
}
