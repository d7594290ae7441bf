package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/identity"
)

// testCA is a root that signs what tests ask for, right or wrong.
type testCA struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	ca := &testCA{t: t, key: newKey(t)}
	now := time.Now()
	ca.cert = ca.sign(&x509.Certificate{
		Subject: pkix.Name{Organization: []string{"test"}}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
	}, &ca.key.PublicKey)
	return ca
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign issues a certificate; the first is the root's own.
func (ca *testCA) sign(template *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	ca.t.Helper()
	issuer := ca.cert
	if issuer == nil {
		issuer = template
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert
}

// leaf is the certificate that Citadel would give to id.
func (ca *testCA) leaf(id identity.ID, key crypto.PublicKey, life time.Duration) *x509.Certificate {
	ca.t.Helper()
	return ca.sign(leafTemplate(id, life), key)
}

func leafTemplate(id identity.ID, life time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		NotBefore: now.Add(-2 * time.Minute), NotAfter: now.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{id.URL()},
	}
}

// certificate is a whole and right one, as Fetch would return it.
func (ca *testCA) certificate(id identity.ID, life time.Duration) *Certificate {
	ca.t.Helper()
	req, err := newRequest(id)
	if err != nil {
		ca.t.Fatal(err)
	}
	c, err := req.accept([]string{pemText(ca.leaf(id, &req.key.PublicKey, life)), pemText(ca.cert)}, time.Now())
	if err != nil {
		ca.t.Fatal(err)
	}
	return c
}

func pemText(certs ...*x509.Certificate) string { return string(encodeCertificates(certs)) }

// writePEM puts certificates into a file that anybody may read.
func writePEM(t testing.TB, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// citadelServer is a real gRPC server over TLS that answers as each test says.
type citadelServer struct {
	securityapi.UnimplementedIstioCertificateServiceServer
	ca *testCA

	mu     sync.Mutex
	answer func(csr *x509.CertificateRequest) ([]string, error)
	tokens []string // of the calls so far
}

func (s *citadelServer) CreateCertificate(ctx context.Context, r *securityapi.IstioCertificateRequest) (*securityapi.IstioCertificateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	s.tokens = append(s.tokens, md.Get("authorization")...)
	block, _ := pem.Decode([]byte(r.GetCsr()))
	if block == nil {
		return nil, status.Error(codes.InvalidArgument, "csr: not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	chain, err := s.answer(csr)
	if err != nil {
		return nil, err
	}
	return &securityapi.IstioCertificateResponse{CertChain: chain}, nil
}

// issue makes the server answer every CSR with the identity that it asks for.
func (s *citadelServer) issue(csr *x509.CertificateRequest) ([]string, error) {
	if len(csr.URIs) != 1 {
		return nil, status.Error(codes.InvalidArgument, "csr: not one URI")
	}
	id, err := identity.Parse(csr.URIs[0].String())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return []string{pemText(s.ca.leaf(id, csr.PublicKey, 24*time.Hour)), pemText(s.ca.cert)}, nil
}

// withhold makes the server refuse while the flag is set.
func (s *citadelServer) withhold(flag *atomic.Bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = func(csr *x509.CertificateRequest) ([]string, error) {
		if flag.Load() {
			return nil, status.Error(codes.Unavailable, "withheld")
		}
		return s.issue(csr)
	}
}

// serve answers on l, certified for the address it listens on.
func (s *citadelServer) serve(l net.Listener) {
	s.ca.t.Helper()
	if s.answer == nil {
		s.answer = s.issue
	}
	key := newKey(s.ca.t)
	now := time.Now()
	host, _, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		s.ca.t.Fatal(err)
	}
	cert := s.ca.sign(&x509.Certificate{
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.ParseIP(host)},
	}, &key.PublicKey)
	srv := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(
		&tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key})))
	securityapi.RegisterIstioCertificateServiceServer(srv, s)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	s.ca.t.Cleanup(func() { srv.Stop(); <-done })
}
