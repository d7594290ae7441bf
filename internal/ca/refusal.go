package ca

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// maxWords is the longest reason that is told or recorded, in bytes. It may quote what
// a stranger wrote.
const maxWords = 400

// refusal is what a client gets instead of a certificate. The message is all it
// may know, which for its own mistakes is the cause; the record always has the cause.
type refusal struct {
	code    codes.Code
	rule    Rule
	message string
	cause   error
}

// invalid refuses what the client can mend, and tells it what.
func invalid(rule Rule, cause error) *refusal {
	return &refusal{codes.InvalidArgument, rule, cause.Error(), cause}
}

// unproven refuses a caller in the words of Istio, which tell it nothing.
func unproven(rule Rule, cause error) *refusal {
	return &refusal{codes.Unauthenticated, rule, "request authenticate failure", cause}
}

func internal(cause error) *refusal {
	return &refusal{codes.Internal, RuleInternal, "internal error", cause}
}

// unanswered sorts the error of a question that was asked on the caller's behalf; no
// is the refusal where the answer was no.
func unanswered(ctx context.Context, err error, no *refusal) *refusal {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &refusal{codes.Canceled, RuleCanceled, "canceled", err}
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return &refusal{codes.Unavailable, RuleUnavailable, "authentication is not available", err}
	case errors.Is(err, ErrUnauthenticated):
		no.cause = err
		return no
	}
	return internal(err)
}

// unissued sorts what the core says.
func unissued(err error) *refusal {
	switch rule := ruleOf(err, RuleInternal); {
	case errors.Is(err, errPossession):
		return invalid(RuleCSRPossession, err)
	case rule == RuleCSR:
		return invalid(rule, err)
	case errors.Is(err, errIssuer):
		return &refusal{codes.Unavailable, RuleIssuer, "the signing certificate is not usable now", err}
	case rule == RuleRecord, rule == RuleRevocations:
		return &refusal{codes.Unavailable, rule, "certificates cannot be issued now", err}
	case rule == RuleRevoked:
		return &refusal{codes.PermissionDenied, rule, "revoked", err}
	}
	return internal(err)
}

// told reports whether the client may know the rule: not one that it could try its way
// around without being anybody.
func (r *refusal) told() bool {
	return r.code != codes.Unauthenticated || strings.HasPrefix(string(r.rule), string(RuleImpersonator)) || r.rule == RuleTokenPod
}

// refuse records why a request is refused, and returns what the client may know. Both
// have the number of the request, so that whoever sees the one finds the other, unless
// there are so many that the record has only how many there were.
func (s *Service) refuse(ctx context.Context, c *call, r *refusal) error {
	s.metrics.refuse(r.rule)
	to, by := s.unproven, refusedBy{source: sourceOf(c.entry.Peer), rule: r.rule, code: r.code}
	if c.proven {
		to, by.id, by.source = s.proven, c.entry.ID, ""
	}
	if to.inFull(by) {
		s.note(ctx, c, r)
	} else {
		s.metrics.unrecorded.Inc()
	}
	reason := "UNAUTHENTICATED"
	if r.told() {
		reason = strings.ToUpper(strings.ReplaceAll(string(r.rule), "-", "_"))
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason: reason, Domain: mesh.ErrorDomain, Metadata: map[string]string{"request": c.entry.Request},
	}}
	if busy, ok := errors.AsType[*Busy](r.cause); ok {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(busy.After)})
	}
	answer := status.New(r.code, shorten(r.message)+" (request "+c.entry.Request+")")
	if detailed, err := answer.WithDetails(details...); err == nil {
		answer = detailed
	}
	return answer.Err()
}

func (s *Service) note(ctx context.Context, c *call, r *refusal) {
	words := shorten(r.cause.Error())
	level := slog.LevelWarn
	if r.code == codes.Internal || r.rule == RuleRecord {
		level = slog.LevelError
	}
	c.log(s).Log(ctx, level, "refused", "code", r.code.String(), "rule", string(r.rule), "err", words)
	e := c.entry
	e.Time, e.Event = time.Now(), ledger.Refused
	e.Code, e.Rule, e.Reason = r.code.String(), string(r.rule), words
	if err := s.authority.record(e); err != nil && r.rule != RuleRecord {
		s.options.Log.ErrorContext(ctx, "refusal is not in the record", "request", e.Request, "err", err)
	}
}

// shorten cuts a text that is too long for a message, between characters.
func shorten(text string) string {
	if len(text) <= maxWords {
		return text
	}
	return strings.ToValidUTF8(text[:maxWords], "") + "…"
}
