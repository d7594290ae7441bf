package ca

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// timeout bounds one request. Istio's agents set no deadline of their own
// and would wait for ever.
const timeout = 5 * time.Second

// Keys of the metadata in a request.
const (
	impersonationKey = "ImpersonatedIdentity" // ztunnel asks for the pods of its node
	signerKey        = "CertSigner"           // agents always send it, mostly empty
)

// ServiceOptions are the settings of the CSR services. Zero values mean defaults.
type ServiceOptions struct {
	Log     *slog.Logger // nothing is logged
	Metrics *Metrics     // nothing can read them

	Gate       gate       // gives turns, as [*Gate] does; everybody comes at once
	Workloads  Workloads  // nobody is proven by certificate, and nobody asks for another
	StillAlive StillAlive // whoever had to wait is not looked at again

	// NodeAccounts are those of node proxies, which may ask for the identities of pods
	// that run on their own node. Accounts are compared without UID.
	NodeAccounts []mesh.ServiceAccount
	// PodlessAccounts may come with tokens that are bound to no pod, as agents on
	// virtual machines do. Their certificates live for [MaxRenewal] at most.
	PodlessAccounts []mesh.ServiceAccount
}

// Service is the gRPC service by which workloads ask for certificates,
// istio.v1.auth.IstioCertificateService; [Service.Legacy] is the one before it. It
// certifies the caller that was proven, whatever the request says, and for node
// proxies the pods of their node.
type Service struct {
	securityapi.UnimplementedIstioCertificateServiceServer
	authority *Authority
	auth      Authenticator
	options   ServiceOptions
	metrics   *Metrics

	unproven, proven *refusals // that are recorded in full, and the others
	own, byNode      string    // policies by name
}

// NewService returns the service that signs with a, for callers that auth proves.
// [Service.Run] has to run.
func NewService(a *Authority, auth Authenticator, o ServiceOptions) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil, a)
	}
	settings := []any{
		a.options.TrustDomain.String(), a.options.DefaultTTL, a.options.MaxTTL, o.NodeAccounts, o.PodlessAccounts, o.Workloads != nil,
	}
	return &Service{
		authority: a, auth: auth, options: o, metrics: o.Metrics,
		unproven: newRefusals(time.Now()), proven: newRefusals(time.Now()),
		own: policyName("own-identity", settings...), byNode: policyName("pods-of-own-node", settings...),
	}
}

// CreateCertificate answers with the leaf, what lies between it and a root, and, as the
// last element, all roots: Istio's clients take the last for the roots, however many
// certificates it holds, and refuse an answer of one element. Agents send Canceled,
// DeadlineExceeded, ResourceExhausted, Aborted, Internal and Unavailable again, five times
// in all, and no other codes.
func (s *Service) CreateCertificate(
	ctx context.Context, in *securityapi.IstioCertificateRequest,
) (*securityapi.IstioCertificateResponse, error) {
	cert, err := s.answer(ctx, asked{
		csr: in.GetCsr(), seconds: in.GetValidityDuration(), field: "validity_duration", metadata: in.GetMetadata(),
	})
	if err != nil {
		return nil, err
	}
	return &securityapi.IstioCertificateResponse{CertChain: cert.answer()}, nil
}

// asked is a request of either service.
type asked struct {
	csr      string
	seconds  int64  // how long the certificate is to live
	field    string // that said so, for its sender
	metadata *structpb.Struct
}

// call is what is known of a request under way.
type call struct {
	entry  ledger.Entry
	caller Caller
	proven bool
}

func (c *call) log(s *Service) *slog.Logger {
	log := s.options.Log.With("peer", c.entry.Peer, "request", c.entry.Request)
	if c.proven {
		log = log.With("namespace", c.caller.Account.Namespace, "account", c.caller.Account.Name, "pod", c.caller.PodName)
	}
	return log
}

// answer takes a request from authentication to the record.
func (s *Service) answer(ctx context.Context, in asked) (cert *issued, err error) {
	s.metrics.requests.Inc()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c := &call{entry: ledger.Entry{Peer: peerOf(ctx), Request: newRequestID()}}
	if stream := grpc.ServerTransportStreamFromContext(ctx); stream != nil {
		//nolint:errcheck // only a call that is over takes none, and nobody reads it then
		stream.SetTrailer(metadata.Pairs(mesh.RequestTrailer, c.entry.Request))
	}
	defer func() {
		// The parsers of a stranger's input are others'. One request must not be
		// able to stop every replica that it is sent to.
		if p := recover(); p != nil {
			c.log(s).ErrorContext(ctx, "panicked", "panic", p, "stack", string(debug.Stack()))
			cert, err = nil, s.refuse(ctx, c, internal(errors.New("panicked")))
		}
	}()
	cert, r := s.serve(ctx, c, in)
	if r != nil {
		return nil, s.refuse(ctx, c, r)
	}
	s.metrics.issued.Inc()
	if cert.short {
		s.metrics.shortened.Inc()
	}
	if s.options.Log.Enabled(ctx, slog.LevelDebug) { // the record says it, too, and more
		c.log(s).DebugContext(ctx, "issued",
			"id", c.entry.ID, "serial", cert.leaf.SerialNumber.Text(16), "expires", cert.leaf.NotAfter)
	}
	return cert, nil
}

func (s *Service) serve(ctx context.Context, c *call, in asked) (*issued, *refusal) {
	at := s.metrics.phases.start()
	now := at
	if err := checkSize(in.csr); err != nil { // as the token's, before anything is verified
		return nil, invalid(RuleCSR, fmt.Errorf("csr: %w", err))
	}
	caller, r := s.authenticate(ctx, now)
	if r != nil {
		return nil, r
	}
	at = s.metrics.phases.observe(phaseAuthenticate, at)
	proven := at
	c.caller, c.proven = caller, true
	c.entry.How, c.entry.Pod = string(caller.How), caller.PodUID
	if own, err := identity.New(s.authority.options.TrustDomain, caller.Account.Namespace, caller.Account.Name); err == nil {
		c.entry.ID = own.String() // of a refusal: who asked, though it may have been for another
	}
	who, r := s.subject(ctx, caller, in.metadata)
	if r != nil {
		return nil, r
	}
	c.entry.ID, c.entry.Pod, c.entry.Node, c.entry.Policy = who.id.String(), who.origin.pod, who.node, who.policy
	// Whoever is revoked must not use up the turns of whom it was taken from.
	claimed := claimOf(caller, who)
	if err := s.authority.options.Revocations.check(claimed, now); err != nil {
		return nil, unissued(err)
	}
	if s.options.Gate != nil {
		leave, err := s.options.Gate.Enter(ctx, who.id, who.origin.pod, s.heldUntil(ctx, caller, who.id, now))
		if err != nil {
			return nil, turnedAway(ctx, err)
		}
		defer leave()
		at = s.metrics.phases.observe(phaseQueue, at)
		if r := s.standing(ctx, caller, who, proven); r != nil {
			return nil, r
		}
	}
	o, r := s.order(who, in)
	if r != nil {
		return nil, r
	}
	o.entry, o.claim = c.entry, claimed
	o.phases, o.began = s.metrics.phases, at
	cert, err := s.authority.certify(o, now)
	if err != nil {
		return nil, unissued(err)
	}
	if s.options.Gate != nil {
		s.options.Gate.Issued(who.id, who.origin.pod, cert.leaf.NotAfter)
	}
	return cert, nil
}

// turnedAway sorts the errors of a gate.
func turnedAway(ctx context.Context, err error) *refusal {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &refusal{codes.Canceled, RuleCanceled, "canceled", err}
	}
	return &refusal{codes.ResourceExhausted, RuleBusy, "the certificate authority is busy", err}
}

// order holds what the request asks for to what may be had.
func (s *Service) order(who subject, in asked) (order, *refusal) {
	refused := func(r *refusal) (order, *refusal) { return order{}, r }
	if _, asks := text(in.metadata, signerKey); asks {
		return refused(invalid(RuleSigner, fmt.Errorf("metadata: %s: there are no other signers", signerKey)))
	}
	request, err := ParseRequest(in.csr)
	if err != nil {
		return refused(invalid(ruleOf(err, RuleCSR), err))
	}
	if err := request.checkNames(who.id); err != nil {
		return refused(invalid(RuleCSRName, err))
	}
	ttl, err := s.authority.options.ttl(in.seconds)
	if err != nil {
		return refused(invalid(RuleTTL, fmt.Errorf("%s: %w", in.field, err)))
	}
	from, err := who.origin.encode()
	if err != nil {
		return refused(internal(err))
	}
	o := order{names: names{id: who.id, origin: from}, request: request, ttl: ttl}
	// Where there is no pod there is no token at hand either: half way through its life,
	// when agents renew, the certificate has to be good for that still.
	if who.origin.pod == "" && ttl > MaxRenewal {
		o.ttl, o.short = MaxRenewal, true
	}
	return o, nil
}

// ttl turns the seconds that a request asks for into a lifetime. They are compared
// before they are multiplied, which may overflow into any lifetime at all.
func (o Options) ttl(seconds int64) (time.Duration, error) {
	if seconds <= 0 {
		return o.DefaultTTL, nil
	}
	if longest := int64(o.MaxTTL / time.Second); seconds > longest {
		return 0, fmt.Errorf("%d s, at most %d s", seconds, longest)
	}
	return time.Duration(seconds) * time.Second, nil
}

// text returns what a request's metadata holds under key, and whether it asks for
// anything: whatever is no text does, but nobody can tell what.
func text(md *structpb.Struct, key string) (value string, asks bool) {
	v, ok := md.GetFields()[key]
	if !ok {
		return "", false
	}
	t, ok := v.GetKind().(*structpb.Value_StringValue)
	return v.GetStringValue(), !ok || t.StringValue != ""
}

// newRequestID returns what the client, the log and the record call a request.
func newRequestID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// lists reports whether an account is among others, compared without UIDs: operators
// name accounts.
func lists(accounts []mesh.ServiceAccount, account mesh.ServiceAccount) bool {
	return slices.ContainsFunc(accounts, func(a mesh.ServiceAccount) bool {
		return a.Namespace == account.Namespace && a.Name == account.Name
	})
}

// subject is whom a certificate is for.
type subject struct {
	id     identity.ID
	origin leafOrigin
	node   string // where a node proxy asked for it, else empty
	policy string
}
