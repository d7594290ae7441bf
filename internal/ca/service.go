package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Caller is who a token proved its bearer to be. The pod is empty for tokens that
// are bound to none.
type Caller struct {
	Account mesh.ServiceAccount
	PodName string
	PodUID  string
}

// Authenticator tells whom a bearer token belongs to. It returns an error that is
// [ErrUnauthenticated] when the token proves nobody, and [ErrUnavailable] when it
// could not be examined.
type Authenticator func(ctx context.Context, token string) (Caller, error)

// What an [Authenticator] may answer but a caller.
var (
	ErrUnauthenticated = errors.New("not authenticated")
	ErrUnavailable     = errors.New("authentication unavailable")
)

// maxToken is the longest bearer token that is examined, in bytes.
const maxToken = 16 << 10

// timeout bounds one request. Istio's agents set no deadline of their own
// and would wait for ever.
const timeout = 5 * time.Second

// Keys of the metadata in a request.
const (
	impersonationKey = "ImpersonatedIdentity" // ztunnel asks for the pods of its node
	signerKey        = "CertSigner"           // agents always send it, mostly empty
)

// ServiceOptions are the settings of the CSR service. Zero values mean defaults.
type ServiceOptions struct {
	Log     *slog.Logger // nothing is logged
	Metrics *Metrics     // nothing can read them
	Gate    *Gate        // everybody is served at once
}

// NewService returns the gRPC service by which workloads ask for certificates,
// istio.v1.auth.IstioCertificateService. It certifies the caller that auth proves
// and nobody else, whatever the request says.
func NewService(a *Authority, auth Authenticator, o ServiceOptions) securityapi.IstioCertificateServiceServer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil, a)
	}
	return &service{authority: a, auth: auth, gate: o.Gate, log: o.Log, metrics: o.Metrics}
}

type service struct {
	securityapi.UnimplementedIstioCertificateServiceServer
	authority *Authority
	auth      Authenticator
	gate      *Gate
	log       *slog.Logger
	metrics   *Metrics
}

// refusal is what a client gets instead of a certificate. The message is all it
// may know, which for its own mistakes is the cause; the log always has the cause.
type refusal struct {
	code    codes.Code
	message string
	cause   error
}

// invalid refuses what the client can mend, and tells it what.
func invalid(cause error) *refusal {
	return &refusal{codes.InvalidArgument, cause.Error(), cause}
}

// CreateCertificate answers with the leaf, each certificate between it and a root, and
// all roots as the last element: Istio's clients take the last for the roots, however
// many certificates it holds, and refuse an answer of one element. Agents send Canceled, DeadlineExceeded,
// ResourceExhausted, Aborted, Internal and Unavailable again, and no other codes.
func (s *service) CreateCertificate(ctx context.Context, in *securityapi.IstioCertificateRequest) (out *securityapi.IstioCertificateResponse, err error) {
	s.metrics.requests.Inc()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	log := s.log.With("peer", peerOf(ctx))
	defer func() {
		// The parsers of a stranger's input are others'. One request must not be
		// able to stop every replica that it is sent to.
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "panicked", "panic", p, "stack", string(debug.Stack()))
			out, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()

	at := s.metrics.phases.start()
	caller, r := s.authenticate(ctx, in.GetMetadata())
	if r != nil {
		return nil, s.refuse(ctx, log, r)
	}
	at = s.metrics.phases.observe(phaseAuthenticate, at)
	log = log.With("namespace", caller.Account.Namespace, "account", caller.Account.Name, "pod", caller.PodName)
	id, err := identity.New(s.authority.options.TrustDomain, caller.Account.Namespace, caller.Account.Name)
	if err != nil {
		return nil, s.refuse(ctx, log, &refusal{codes.Internal, "internal error", err})
	}
	if s.gate != nil {
		leave, err := s.gate.Enter(ctx, id, caller.PodUID, time.Time{})
		if err != nil {
			log.WarnContext(ctx, "turned away", "err", err)
			return nil, turnedAway(err)
		}
		defer leave()
		at = s.metrics.phases.observe(phaseQueue, at)
	}
	cert, r := s.issue(in, id, time.Now())
	if r != nil {
		return nil, s.refuse(ctx, log, r)
	}
	s.metrics.phases.observe(phaseSign, at)
	if s.gate != nil {
		s.gate.Issued(id, caller.PodUID, cert.leaf.NotAfter)
	}
	s.metrics.issued.Inc()
	if cert.short {
		s.metrics.shortened.Inc()
	}
	log.InfoContext(ctx, "issued",
		"id", cert.leaf.URIs[0].String(), "serial", cert.leaf.SerialNumber.Text(16), "expires", cert.leaf.NotAfter)
	return &securityapi.IstioCertificateResponse{CertChain: cert.answer()}, nil
}

// authenticate finds out who is calling. The header clusterid is not looked at:
// it would let the caller choose whose word is believed.
func (s *service) authenticate(ctx context.Context, md *structpb.Struct) (Caller, *refusal) {
	refused := func(code codes.Code, message string, cause error) (Caller, *refusal) {
		s.metrics.unproven.Inc()
		return Caller{}, &refusal{code, message, cause}
	}
	const unproven = "request authenticate failure" // as Istio says it
	token, err := bearer(ctx)
	if err != nil {
		return refused(codes.Unauthenticated, unproven, err)
	}
	if len(token) > maxToken {
		err := fmt.Errorf("authorization: token of %d bytes, at most %d", len(token), maxToken)
		return refused(codes.InvalidArgument, err.Error(), err)
	}
	caller, err := s.auth(ctx, token)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return refused(codes.Canceled, "canceled", err)
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return refused(codes.Unavailable, "authentication is not available", err)
	case errors.Is(err, ErrUnauthenticated):
		return refused(codes.Unauthenticated, unproven, err)
	case err != nil:
		return refused(codes.Internal, "internal error", err)
	}
	if asksFor(md, impersonationKey) {
		return refused(codes.Unauthenticated, "request impersonation authentication failure",
			fmt.Errorf("metadata: %s: %s may not ask for another identity", impersonationKey, caller.Account))
	}
	return caller, nil
}

// issue certifies the caller.
func (s *service) issue(in *securityapi.IstioCertificateRequest, id identity.ID, now time.Time) (*issued, *refusal) {
	internal := func(err error) *refusal { return &refusal{codes.Internal, "internal error", err} }
	if asksFor(in.GetMetadata(), signerKey) {
		s.metrics.unsigned.WithLabelValues(csrError).Inc()
		return nil, invalid(fmt.Errorf("metadata: %s: there are no other signers", signerKey))
	}
	request, err := ParseRequest(in.GetCsr())
	if err != nil {
		s.metrics.malformed.Inc()
		return nil, invalid(err)
	}
	if err := request.checkNames(id); err != nil {
		s.metrics.misnamed.Inc()
		return nil, invalid(err)
	}
	ttl, err := s.authority.options.ttl(in.GetValidityDuration())
	if err != nil {
		s.metrics.unsigned.WithLabelValues(ttlError).Inc()
		return nil, invalid(err)
	}
	cert, err := s.authority.current.Load().issue(names{id: id}, request, now, ttl)
	switch {
	case errors.Is(err, errPossession):
		s.metrics.unsigned.WithLabelValues(csrError).Inc()
		return nil, invalid(err)
	case errors.Is(err, errIssuer):
		s.metrics.unsigned.WithLabelValues(notReadyError).Inc()
		return nil, &refusal{codes.Unavailable, "the signing certificate is not usable now", err}
	case err != nil:
		s.metrics.unsigned.WithLabelValues(signError).Inc()
		return nil, internal(err)
	}
	return cert, nil
}

// turnedAway is what a client hears of the error of a gate.
func turnedAway(err error) error {
	if busy, ok := errors.AsType[*Busy](err); ok {
		return busy.GRPCStatus().Err()
	}
	return status.FromContextError(err).Err()
}

// ttl turns the seconds that a request asks for into a lifetime. They are compared
// before they are multiplied, which may overflow into any lifetime at all.
func (o Options) ttl(seconds int64) (time.Duration, error) {
	if seconds <= 0 {
		return o.DefaultTTL, nil
	}
	if longest := int64(o.MaxTTL / time.Second); seconds > longest {
		return 0, fmt.Errorf("validity_duration: %d s, at most %d s", seconds, longest)
	}
	return time.Duration(seconds) * time.Second, nil
}

// refuse logs why a request is refused, and returns what the client may know.
func (s *service) refuse(ctx context.Context, log *slog.Logger, r *refusal) error {
	log.WarnContext(ctx, "refused", "code", r.code.String(), "err", r.cause)
	return status.Error(r.code, r.message)
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

// asksFor reports whether a request's metadata holds anything under key but
// nothing or an empty text.
func asksFor(md *structpb.Struct, key string) bool {
	value, ok := md.GetFields()[key]
	if !ok {
		return false
	}
	text, ok := value.GetKind().(*structpb.Value_StringValue)
	return !ok || text.StringValue != ""
}

func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}
