package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// StillAlive tells of an account and its pod, empty for none, that lived at the moment
// since, whether they do yet: nil, [ErrUnauthenticated] where they have gone since, and
// [ErrUnavailable] where that is a while ago and it cannot be told. It asks nobody and
// takes no time.
type StillAlive func(account mesh.ServiceAccount, pod string, since time.Time) error

// standing refuses whoever has gone while the caller waited for its turn. Whom the API
// server itself has vouched for need not be vouched for again by watches that are behind.
func (s *Service) standing(ctx context.Context, caller Caller, who subject, since time.Time) *refusal {
	if s.options.StillAlive == nil {
		return nil
	}
	look := func(account mesh.ServiceAccount, pod string, no *refusal) *refusal {
		err := s.options.StillAlive(account, pod, since)
		if err == nil || caller.How == ProofReview && errors.Is(err, ErrUnavailable) {
			return nil
		}
		return unanswered(ctx, fmt.Errorf("while it waited: %w", err), no)
	}
	rule := RuleToken
	if caller.How == ProofCertificate {
		rule = RuleCertificatePod
	}
	if r := look(caller.Account, caller.PodUID, unproven(rule, nil)); r != nil || who.origin.kind != byNode {
		return r
	}
	other := mesh.ServiceAccount{Namespace: who.id.Namespace(), Name: who.id.Account(), UID: who.origin.account}
	return look(other, who.origin.pod, &refusal{codes.Unauthenticated, RuleImpersonatedNode, impersonationFailure, nil})
}
