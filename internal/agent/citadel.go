package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Citadel is how the pod asks the CA for its certificate: gRPC over TLS, proving
// itself by the service account token that the kubelet projects.
type Citadel struct {
	Addr      string        // host:port; the server must be certified for the host
	RootFile  string        // PEM roots of the server, read at each call. "": [mesh.RootFile]
	TokenFile string        // read at each call: the kubelet replaces it. "": [mesh.TokenFile]
	Timeout   time.Duration // of one call, dialling included. 0: 10 s
	Lifetime  time.Duration // asked for. 0: the CA decides
}

// Fetch makes a new key and returns its certificate for id. Every call dials anew,
// so that it takes up roots and tokens that changed since the last: a pod asks
// twice a day. Its errors carry the server's gRPC status and never the token.
func (c Citadel) Fetch(ctx context.Context, id identity.ID) (*Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, 10*time.Second))
	defer cancel()
	req, err := newRequest(id)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+c.Addr,
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithPerRPCCredentials(tokenFile(cmp.Or(c.TokenFile, mesh.TokenFile))),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<20)),
	)
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", c.Addr, err)
	}
	defer conn.Close()
	answer, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx,
		&securityapi.IstioCertificateRequest{Csr: string(req.csr), ValidityDuration: int64(c.Lifetime / time.Second)})
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", c.Addr, err)
	}
	cert, err := req.accept(answer.GetCertChain(), time.Now())
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", c.Addr, err)
	}
	return cert, nil
}

func (c Citadel) tls() (*tls.Config, error) {
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, fmt.Errorf("CA address: %w", err)
	}
	file := cmp.Or(c.RootFile, mesh.RootFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("CA roots: %s: no certificate", file)
	}
	return &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12}, nil
}

// tokenFile sends the token in a file with each call, over TLS only.
type tokenFile string

func (f tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(f))
	if err != nil {
		return nil, err
	}
	token = bytes.TrimSpace(token)
	if len(token) == 0 {
		return nil, errors.New(string(f) + ": empty")
	}
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (tokenFile) RequireTransportSecurity() bool { return true }
