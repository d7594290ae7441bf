package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// maxToken is the longest bearer token that is examined, in bytes.
const maxToken = 16 << 10

// MaxRenewal is for how long after its last token a certificate may renew itself.
const MaxRenewal = 7 * 24 * time.Hour

// authenticate finds out who is calling: by the token if there is one, and where that
// proves nobody, by the client certificate. Istio looks at the certificate first; a
// token is the younger proof and starts the certificate's time anew. Whoever holds a
// certificate that counts could have left a bad token out, so that it costs nothing to
// overlook it, and agents on virtual machines send tokens that are long over.
//
// The header clusterid is not looked at: it would let the caller choose whose word is
// believed.
func (s *Service) authenticate(ctx context.Context, now time.Time) (Caller, *refusal) {
	caller, noToken := s.byToken(ctx, now)
	if noToken == nil || noToken.code != codes.Unauthenticated && noToken.code != codes.Unavailable || noToken.rule == RuleTokenPod {
		return caller, noToken
	}
	chain := peerCertificates(ctx)
	if len(chain) == 0 {
		return Caller{}, noToken
	}
	caller, r := s.byCertificate(ctx, chain, now)
	switch {
	case r == nil:
		return caller, nil
	case r.code == codes.Unauthenticated && noToken.code == codes.Unavailable:
		r.code, r.rule, r.message = noToken.code, noToken.rule, noToken.message // the token may be good
	}
	r.cause = fmt.Errorf("%w; %w", noToken.cause, r.cause)
	return Caller{}, r
}

func (s *Service) byToken(ctx context.Context, now time.Time) (Caller, *refusal) {
	token, err := bearer(ctx)
	if err != nil {
		return Caller{}, unproven(RuleToken, err)
	}
	if len(token) > maxToken {
		return Caller{}, invalid(RuleTokenSize, fmt.Errorf("authorization: token of %d bytes, at most %d", len(token), maxToken))
	}
	caller, err := s.auth(ctx, token)
	if err != nil {
		return Caller{}, unanswered(ctx, err, unproven(RuleToken, err))
	}
	if caller.PodUID == "" && !lists(s.options.PodlessAccounts, caller.Account) {
		r := unproven(RuleTokenPod, fmt.Errorf("token of %s is bound to no pod", caller.Account))
		r.message = "token is bound to no pod"
		return Caller{}, r
	}
	if caller.Proven.IsZero() {
		caller.Proven = now
	}
	return caller, nil
}

// byCertificate takes a client certificate for the token that it was once issued for.
func (s *Service) byCertificate(ctx context.Context, chain []*x509.Certificate, now time.Time) (Caller, *refusal) {
	leaf := chain[0]
	refused := func(rule Rule, err error) (Caller, *refusal) {
		return Caller{}, unproven(rule, fmt.Errorf("client certificate %s: %w", leaf.SerialNumber.Text(16), err))
	}
	if s.options.Workloads == nil {
		return refused(RuleCertificateKind, errors.New("certificates prove nobody here"))
	}
	if err := s.authority.verifyClient(leaf, now); err != nil {
		return refused(RuleCertificateRoot, err)
	}
	id, err := onlyID(leaf)
	if err != nil {
		return refused(RuleCertificateName, err)
	}
	if own := s.authority.options.TrustDomain; id.TrustDomain() != own {
		return refused(RuleCertificateName, fmt.Errorf("%s is not of trust domain %s", id, own))
	}
	from, err := parseOrigin(originIn(leaf))
	if err != nil || from.kind != byToken {
		return refused(RuleCertificateKind, errors.Join(errors.New("was not issued for a token of its holder's"), err))
	}
	if age := now.Sub(from.proven); age > MaxRenewal || age < -skew {
		return refused(RuleCertificateAge, fmt.Errorf("token was seen at %s, %v ago, at most %v",
			from.proven.Format(time.RFC3339), age.Round(time.Second), MaxRenewal))
	}
	caller := Caller{
		Account: mesh.ServiceAccount{Namespace: id.Namespace(), Name: id.Account(), UID: from.account},
		PodUID:  from.pod,
		How:     ProofCertificate,
		Proven:  from.proven,
		Leaf:    leaf,
	}
	if from.pod == "" && !lists(s.options.PodlessAccounts, caller.Account) {
		return refused(RuleTokenPod, fmt.Errorf("token of %s was bound to no pod", caller.Account))
	}
	if err := s.options.Workloads.Alive(ctx, caller.Account, "", from.pod); err != nil {
		err = fmt.Errorf("client certificate %s: %w", leaf.SerialNumber.Text(16), err)
		return Caller{}, unanswered(ctx, err, unproven(RuleCertificatePod, err))
	}
	return caller, nil
}

// verifyClient verifies a client's certificate. What signed it has to be what signs now
// or did before: the roots may vouch for CAs of others, too, whose word is not ours. The
// rest of the client's chain is not looked at, so that a stranger's keys cost us nothing.
func (a *Authority) verifyClient(leaf *x509.Certificate, now time.Time) error {
	by := a.current.Load()
	between := x509.NewCertPool()
	for _, c := range slices.Concat(by.chain, by.earlier) {
		between.AddCert(c)
	}
	verified, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.ClientRoots(), Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(verified, func(c []*x509.Certificate) bool { return len(c) > 1 && by.signs(c[1]) }) {
		return errors.New("was signed by another CA below a root in use")
	}
	return nil
}

// onlyID returns the one URI of a certificate. What else it names carries no weight.
func onlyID(leaf *x509.Certificate) (identity.ID, error) {
	if len(leaf.URIs) != 1 {
		return identity.ID{}, fmt.Errorf("%d URIs, want one", len(leaf.URIs))
	}
	return identity.Parse(leaf.URIs[0].String())
}

// heldUntil tells when the certificate of id ends with which the client connected,
// zero for none that is good.
func (s *Service) heldUntil(ctx context.Context, caller Caller, id identity.ID, now time.Time) time.Time {
	chain := peerCertificates(ctx)
	if len(chain) == 0 {
		return time.Time{}
	}
	leaf := chain[0]
	if held, err := onlyID(leaf); err != nil || held != id {
		return time.Time{}
	}
	if leaf != caller.Leaf && s.authority.verifyClient(leaf, now) != nil { // who is who was proven by a token
		return time.Time{}
	}
	return leaf.NotAfter
}

// peerCertificates returns the chain with which the client came, leaf first. Its
// handshake has proven that it holds the leaf's key, and no more: anybody may have signed
// that, at any time.
func peerCertificates(ctx context.Context) []*x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil
	}
	return info.State.PeerCertificates
}

// bearer returns the first bearer token of a request. Like Istio, it takes the
// prefix as it is spelled here and no other way.
func bearer(ctx context.Context) (string, error) {
	for _, value := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		if token, ok := strings.CutPrefix(value, "Bearer "); ok {
			if token == "" {
				return "", errors.New("authorization: empty token")
			}
			return token, nil
		}
	}
	return "", errors.New("authorization: no bearer token")
}
