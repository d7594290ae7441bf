package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/garrison-mesh/garrison/internal/identity"
)

// impersonationFailure is how Istio puts it.
const impersonationFailure = "request impersonation authentication failure"

// subject decides whom the certificate is for: the caller, or where its metadata asks
// for another, that one, if the caller is a node proxy and the other runs on its node.
func (s *Service) subject(ctx context.Context, caller Caller, md *structpb.Struct) (subject, *refusal) {
	id, err := identity.New(s.authority.options.TrustDomain, caller.Account.Namespace, caller.Account.Name)
	if err != nil {
		return subject{}, invalid(RuleAccount, fmt.Errorf("account: %w", err)) // it will be the same next time
	}
	other, asks := text(md, impersonationKey)
	if !asks {
		return subject{
			id:     id,
			origin: leafOrigin{kind: byToken, account: caller.Account.UID, pod: caller.PodUID, proven: caller.Proven},
			policy: s.own,
		}, nil
	}
	// A proxy that is revoked gets nothing for others, either.
	if err := s.authority.options.Revocations.check(claim{id: id, proven: caller.Proven}, time.Now()); err != nil {
		return subject{}, unissued(err)
	}
	return s.impersonated(ctx, caller, other)
}

func (s *Service) impersonated(ctx context.Context, caller Caller, other string) (subject, *refusal) {
	refused := func(rule Rule, err error) *refusal {
		return &refusal{
			codes.Unauthenticated, rule, impersonationFailure,
			fmt.Errorf("metadata: %s: %w; asked for %.200q", impersonationKey, err, other),
		}
	}
	switch {
	case s.options.Workloads == nil, !lists(s.options.NodeAccounts, caller.Account):
		return subject{}, refused(RuleImpersonator, fmt.Errorf("%s may not ask for another identity", caller.Account))
	case caller.How == ProofCertificate: // which may be anywhere by now
		return subject{}, refused(RuleImpersonator, errors.New("only a token tells which node its pod is on"))
	case caller.PodUID == "", caller.Node == "":
		return subject{}, refused(RuleImpersonator, fmt.Errorf("token of %s is of no pod on a known node", caller.Account))
	}
	id, err := identity.Parse(other)
	if err != nil {
		return subject{}, refused(RuleImpersonated, err)
	}
	if own := s.authority.options.TrustDomain; id.TrustDomain() != own {
		return subject{}, refused(RuleImpersonated, fmt.Errorf("%s is not of trust domain %s", id, own))
	}
	pod, err := s.options.Workloads.OnNode(ctx, caller.Node, id.Namespace(), id.Account())
	if err != nil {
		no := refused(RuleImpersonatedNode, err)
		return subject{}, unanswered(ctx, no.cause, no)
	}
	if a := pod.Account; !pod.Live || pod.UID == "" || pod.Node != caller.Node || a.Namespace != id.Namespace() || a.Name != id.Account() {
		return subject{}, refused(RuleImpersonatedNode, fmt.Errorf("pod %s is not a live one of it on node %s", pod.Name, caller.Node))
	}
	return subject{
		id:     id,
		origin: leafOrigin{kind: byNode, account: pod.Account.UID, pod: pod.UID, proven: caller.Proven},
		node:   caller.Node,
		policy: s.byNode,
	}, nil
}
