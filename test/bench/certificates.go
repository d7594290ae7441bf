package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1alpha1"
)

const (
	caClients = 16  // over one connection
	caCrowd   = 64  // the same, to see how long the last of many wait
	caCSRs    = 512 // made beforehand, used in turn
	caTTL     = 24 * 60 * 60
	caToken   = "bench" // what the constant authenticator is asked about
)

// request is a CSR as an agent sends it, and the key in it.
type request struct {
	pem string
	key *ecdsa.PublicKey
}

// newRequests makes CSRs that name the holder by URIs; by none, anybody may send them.
func newRequests(uris ...*url.URL) ([]request, error) {
	all := make([]request, caCSRs)
	for i := range all {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			URIs: uris,
		}, key)
		if err != nil {
			return nil, err
		}
		all[i] = request{
			pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
			key: &key.PublicKey,
		}
	}
	return all, nil
}

// cartURI is the identity of the account that certificates are asked for.
func cartURI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + shop + "/sa/" + cart}
}

// agents play the agents of many pods to one CA.
type agents struct {
	conn     *grpc.ClientConn
	ca       securityapi.IstioCertificateServiceClient
	requests []request
	tokens   []string // used in turn
	sent     atomic.Int64
}

func newAgents(s *server, requests []request, tokens ...string) (*agents, error) {
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(credentials.NewTLS(s.trust.Clone())))
	if err != nil {
		return nil, err
	}
	return &agents{conn: conn, ca: securityapi.NewIstioCertificateServiceClient(conn), requests: requests, tokens: tokens}, nil
}

func (a *agents) close() error { return a.conn.Close() }

// call asks for one certificate. It is a [call].
func (a *agents) call(ctx context.Context, _, _ int) error {
	_, chain, err := a.ask(ctx)
	if err == nil && (len(chain) < 2 || !strings.HasPrefix(chain[0], "-----BEGIN CERTIFICATE-----\n")) {
		err = fmt.Errorf("not a chain: %.300q", chain)
	}
	return err
}

func (a *agents) ask(ctx context.Context) (request, []string, error) {
	n := int(a.sent.Add(1))
	r, token := a.requests[n%len(a.requests)], a.tokens[n%len(a.tokens)]
	answer, err := a.ca.CreateCertificate(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), r.message())
	return r, answer.GetCertChain(), err
}

// message is what an agent sends; the empty signer too, as Istio's do.
func (r request) message() *securityapi.IstioCertificateRequest {
	return &securityapi.IstioCertificateRequest{
		Csr: r.pem, ValidityDuration: caTTL,
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"CertSigner": structpb.NewStringValue("")}},
	}
}

// verify asks for one certificate and checks that it holds the key that was sent and
// leads to the root that came with it.
func (a *agents) verify(ctx context.Context) error {
	r, chain, err := a.ask(ctx)
	if err != nil {
		return err
	}
	return checkChain(r, chain)
}

func checkChain(r request, chain []string) error {
	if len(chain) < 2 {
		return fmt.Errorf("chain of %d", len(chain))
	}
	block, _ := pem.Decode([]byte(chain[0]))
	if block == nil {
		return errors.New("leaf: not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("leaf: %w", err)
	}
	if !r.key.Equal(leaf.PublicKey) {
		return errors.New("leaf: for another key")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(chain[len(chain)-1])) {
		return errors.New("root: not PEM")
	}
	between := x509.NewCertPool()
	for _, element := range chain[1 : len(chain)-1] {
		between.AppendCertsFromPEM([]byte(element))
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}
