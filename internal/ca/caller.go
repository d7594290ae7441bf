package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Proof is how a caller was proven.
type Proof string

// The proofs there are. The record has one more, for the Secrets that Citadel writes.
const (
	ProofReview      Proof = "token-review" // the API server looked at a token
	ProofLocal       Proof = "token-local"  // this process did, by the API server's keys
	ProofCertificate Proof = "certificate"  // of ours, by which an earlier token still counts
	proofSecret      Proof = "secret"       // nobody asked: the leader writes it
)

// Caller is who a token or a certificate proved its holder to be. The pod is empty
// for tokens that are bound to none.
type Caller struct {
	Account mesh.ServiceAccount
	PodName string
	PodUID  string
	Node    string // of the pod; empty where not known

	How    Proof
	Proven time.Time         // when a token last proved it; zero: now
	Leaf   *x509.Certificate // the certificate that proved it, else nil
}

// Authenticator tells whom a bearer token belongs to. It returns an error that is
// [ErrUnauthenticated] when the token proves nobody, and [ErrUnavailable] when it
// could not be examined.
type Authenticator func(ctx context.Context, token string) (Caller, error)

// Workloads tells what runs now. Its errors are [ErrUnauthenticated] where the answer
// is no, and [ErrUnavailable] where there is none.
type Workloads interface {
	// Alive returns nil while the account exists, with its UID where one is given, and
	// so does its pod, where one is given.
	Alive(ctx context.Context, account mesh.ServiceAccount, pod, podUID string) error
	// OnNode returns a live pod of an account on a node.
	OnNode(ctx context.Context, node, namespace, account string) (mesh.Pod, error)
}

// What an [Authenticator] and [Workloads] may answer but what they are asked for.
var (
	ErrUnauthenticated = errors.New("not authenticated")
	ErrUnavailable     = errors.New("authentication unavailable")
)

// gate gives turns to callers where more come than can be served, as [*Gate] does. It is
// told what was issued, so that it knows whose certificate ends when.
type gate interface {
	Enter(ctx context.Context, who identity.ID, pod string, expires time.Time) (leave func(), err error)
	Issued(who identity.ID, pod string, notAfter time.Time)
}
