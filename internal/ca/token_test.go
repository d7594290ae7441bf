package ca

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// An agent that was paused until its certificate had ended comes with that and a token,
// over TLS as it does: the token is what counts. Without one, it is told that it is nobody.
func TestExpiredCertificateWithToken(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now().Add(-24*time.Hour), Options{Recorder: &kept})
	stranger, _ := open(t, time.Now(), Options{})
	service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
	n := names{id: mustID(t, sleepID), origin: encoded(t, leafOrigin{byToken, sleep.UID, "p1", time.Now().Add(-2 * time.Hour)})}
	for name, h := range map[string]held{
		"expired":      signLeaf(t, a, n, time.Now().Add(-2*time.Hour)),
		"a stranger's": signLeaf(t, stranger, n, time.Now()),
	} {
		conn := dial(t, a, service, "istio-citadel", h.pair())
		for credential, want := range map[string]Rule{"Bearer " + token: "", "Bearer x": RuleCertificateRoot, "": RuleCertificateRoot} {
			kept.entries = nil
			_, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(
				withToken(t.Context(), credential), &securityapi.IstioCertificateRequest{Csr: csrFor(t, sleepID)})
			if want == "" {
				if e := kept.only(t); err != nil || e.How != string(ProofReview) {
					t.Errorf("%s with a token: %v, recorded %+v", name, err, e)
				}
				continue
			}
			expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
			kept.expectRefusal(t, err, want)
		}
	}
}

// The first that proves somebody counts, the token before the certificate: a bad token
// takes nothing from a certificate, and a good one is the younger proof.
func TestTokenBeforeCertificate(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	other := mesh.ServiceAccount{Namespace: "default", Name: "httpbin", UID: "9"}
	workloads := &running{pods: []mesh.Pod{sleepPod, {UID: "p9", Account: other, Live: true}}}
	service := NewService(a, asSleep, ServiceOptions{Workloads: workloads})
	certificate := signLeaf(t, a, names{
		id: mustID(t, "spiffe://cluster.local/ns/default/sa/httpbin"), origin: encoded(t, leafOrigin{byToken, "9", "p9", time.Now()}),
	}, time.Now())
	for _, c := range []struct {
		name, token, how string
		unavailable      bool
		code             codes.Code
		rule             Rule
	}{
		{name: "both", token: token, how: "token-review"},
		{name: "certificate only", how: "certificate"},
		{name: "token that is over", token: "x", how: "certificate"},
		{name: "token that nobody can examine", token: "slow", how: "certificate"},
		{name: "neither can be examined", token: "slow", unavailable: true, code: codes.Unavailable, rule: RuleUnavailable},
		{name: "nobody knows what runs", token: "x", unavailable: true, code: codes.Unavailable, rule: RuleUnavailable},
		{name: "a token of nobody's pod", token: "podless", code: codes.Unauthenticated, rule: RuleTokenPod},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept.entries, workloads.err = nil, nil
			if c.unavailable {
				workloads.err = ErrUnavailable
			}
			_, err := obtain(t, shown(t.Context(), c.token, certificate.chain...), service)
			if e := kept.only(t); e.How != c.how || e.Rule != string(c.rule) || (err != nil) != (c.rule != "") {
				t.Errorf("%v, recorded %+v", err, e)
			}
			if err != nil && c.code != codeOf(err) {
				t.Errorf("%v, want %s", err, c.code)
			}
		})
	}
	// The token may be good: that the certificate is of no use is no reason to give up.
	workloads.pods = nil
	_, err := obtain(t, shown(t.Context(), "slow", certificate.chain...), service)
	expectRefusal(t, err, codes.Unavailable, "authentication is not available")
}

// Agents on virtual machines have tokens that are bound to no pod: for the accounts that
// the operator lists, for a life that lets them renew in time, and as long as the account is
// there.
func TestPodlessAccounts(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	workloads := &running{accounts: []mesh.ServiceAccount{sleep}}
	listed := []mesh.ServiceAccount{{Namespace: sleep.Namespace, Name: sleep.Name}}
	service := NewService(a, asSleep, ServiceOptions{Workloads: workloads, PodlessAccounts: listed})
	short := map[string]int64{token: 0, "podless": 1} // by a second, or not
	for _, token := range []string{token, "podless"} {
		out, err := service.CreateCertificate(bearing(t, token), &securityapi.IstioCertificateRequest{
			Csr: csrFor(t), ValidityDuration: int64(MaxRenewal/time.Second) + 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		expectLife(t, parseLeaf(t, out.CertChain[0]), int64(MaxRenewal/time.Second)+1-short[token])
		if n := testutil.ToFloat64(service.metrics.shortened); n != float64(short[token]) {
			t.Errorf("%v certificates counted that are shorter than was asked for", n)
		}
	}
	h := mustObtain(t, bearing(t, "podless"), service)
	h = mustObtain(t, shown(t.Context(), "", h.chain...), service)
	for name, other := range map[string]*Service{
		"not listed any more": NewService(a, asSleep, ServiceOptions{Workloads: workloads}),
		"account is gone":     NewService(a, asSleep, ServiceOptions{Workloads: &running{}, PodlessAccounts: listed}),
	} {
		if _, err := obtain(t, shown(t.Context(), "", h.chain...), other); codeOf(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Where a token was not examined or nobody can tell, a certificate that is good or bad for
// reasons of its own does not hide it.
func TestTokenThatIsNoAnswer(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	examined := 0
	auth := func(ctx context.Context, token string) (Caller, error) {
		examined++
		return asSleep(ctx, token)
	}
	good := mustObtain(t, bearing(t, token), NewService(a, asSleep, ServiceOptions{}))
	for name, c := range map[string]struct {
		token     string
		workloads *running
		examined  int
		code      codes.Code
		message   string
	}{
		"huge":                     {strings.Repeat("x", maxToken+1), &running{pods: []mesh.Pod{sleepPod}}, 0, codes.InvalidArgument, "authorization: token of 16385 bytes, at most 16384"},
		"our mistake":              {"broken", &running{pods: []mesh.Pod{sleepPod}}, 1, codes.Internal, "internal error"},
		"unavailable, and mistake": {"slow", &running{err: errors.New("what is this")}, 1, codes.Internal, "internal error"},
		"unavailable, and no":      {"slow", &running{}, 1, codes.Unavailable, "authentication is not available"},
	} {
		examined = 0
		_, err := obtain(t, shown(t.Context(), c.token, good.chain...), NewService(a, auth, ServiceOptions{Workloads: c.workloads}))
		expectRefusal(t, err, c.code, c.message)
		if examined != c.examined {
			t.Errorf("%s: examined %d times, want %d", name, examined, c.examined)
		}
	}
	// An empty token is none.
	examined = 0
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "))
	_, err := obtain(t, ctx, NewService(a, auth, ServiceOptions{}))
	if expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure"); examined != 0 {
		t.Error("an empty token was examined")
	}
}
