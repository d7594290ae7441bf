package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// startCitadel returns a client of a server on loopback.
func startCitadel(t *testing.T, s *citadelServer) Citadel {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.serve(l)
	dir := t.TempDir()
	return Citadel{
		Addr:      l.Addr().String(),
		Timeout:   enough,
		RootFile:  writePEM(t, dir, "root.pem", pemText(s.ca.cert)),
		TokenFile: writePEM(t, dir, "token", "first\n"),
	}
}

func TestFetch(t *testing.T) {
	server := &citadelServer{ca: newTestCA(t)}
	citadel := startCitadel(t, server)
	id := testID(t, "sleep")

	var seen *x509.CertificateRequest
	server.answer = func(csr *x509.CertificateRequest) ([]string, error) {
		seen = csr
		return server.issue(csr)
	}
	cert, err := citadel.Fetch(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(seen.Subject.Names) != 0 {
		t.Errorf("CSR has a subject: %v", seen.Subject)
	}
	if len(seen.Extensions) != 1 || !seen.Extensions[0].Critical {
		t.Errorf("CSR's extensions: %v, want one critical SAN", seen.Extensions)
	}
	if got := cert.leaf.URIs[0].String(); got != id.String() {
		t.Errorf("leaf names %s", got)
	}
	if block, _ := pem.Decode(cert.key); block == nil || block.Type != "PRIVATE KEY" {
		t.Error("key is not PKCS#8 in PEM")
	} else if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		t.Error("key: ", err)
	}

	// The kubelet replaced the token; the next call sends the new one.
	if err := os.WriteFile(citadel.TokenFile, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, err := citadel.Fetch(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(server.tokens, ","); got != "Bearer first,Bearer second" {
		t.Errorf("tokens sent: %q", got)
	}
	if string(next.key) == string(cert.key) {
		t.Error("the second certificate has the first one's key")
	}
}

func TestFetchRefusesAnswers(t *testing.T) {
	server := &citadelServer{ca: newTestCA(t)}
	ca, stranger := server.ca, newTestCA(t)
	citadel := startCitadel(t, server)
	id, other := testID(t, "sleep"), testID(t, "httpbin")
	root := pemText(ca.cert)

	// changed is a right answer with one thing made wrong.
	changed := func(wrong func(*x509.Certificate)) func(*x509.CertificateRequest) []string {
		return func(csr *x509.CertificateRequest) []string {
			template := leafTemplate(id, time.Hour)
			wrong(template)
			return []string{pemText(ca.sign(template, csr.PublicKey)), root}
		}
	}
	right := changed(func(*x509.Certificate) {})
	cases := map[string]struct {
		answer func(*x509.CertificateRequest) []string
		want   string
	}{
		"short chain": {func(csr *x509.CertificateRequest) []string { return right(csr)[:1] }, "1 elements"},
		"no answer":   {func(*x509.CertificateRequest) []string { return nil }, "0 elements"},
		"empty leaf":  {func(*x509.CertificateRequest) []string { return []string{"", root} }, "element 0: no certificate"},
		"no PEM":      {func(*x509.CertificateRequest) []string { return []string{"leaf", root} }, "element 0: not PEM"},
		"a key in it": {func(csr *x509.CertificateRequest) []string {
			return []string{right(csr)[0] + "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", root}
		}, `PEM block "PRIVATE KEY"`},
		"wrong key": {func(*x509.CertificateRequest) []string {
			return []string{pemText(ca.leaf(id, &newKey(t).PublicKey, time.Hour)), root}
		}, "another key"},
		"wrong SAN":   {changed(func(c *x509.Certificate) { c.URIs = leafTemplate(other, 0).URIs }), "sa/httpbin"},
		"second URI":  {changed(func(c *x509.Certificate) { c.URIs = append(c.URIs, other.URL()) }), "2 names"},
		"a DNS name":  {changed(func(c *x509.Certificate) { c.DNSNames = []string{"a"} }), "2 names"},
		"no SAN":      {changed(func(c *x509.Certificate) { c.URIs = nil }), "0 names"},
		"is a CA":     {changed(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "is a CA"},
		"expired":     {changed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "expired"},
		"server only": {changed(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "usage"},
		"other root":  {func(csr *x509.CertificateRequest) []string { return []string{right(csr)[0], pemText(stranger.cert)} }, "unknown authority"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			server.answer = func(csr *x509.CertificateRequest) ([]string, error) { return c.answer(csr), nil }
			cert, err := citadel.Fetch(t.Context(), id)
			if err == nil {
				t.Fatalf("accepted: %v", cert.leaf.URIs)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}

	server.answer = func(csr *x509.CertificateRequest) ([]string, error) {
		return []string{right(csr)[0], root + root}, nil // several roots, as while they are rotated
	}
	if _, err := citadel.Fetch(t.Context(), id); err != nil {
		t.Error("a bundle of roots: ", err)
	}
}

func TestFetchFailures(t *testing.T) {
	server := &citadelServer{ca: newTestCA(t)}
	good := startCitadel(t, server)
	stranger := newTestCA(t)
	id := testID(t, "sleep")
	server.answer = func(csr *x509.CertificateRequest) ([]string, error) { return server.issue(csr) }

	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	dir := t.TempDir()
	cases := map[string]struct {
		change func(*Citadel)
		code   codes.Code
	}{
		"nobody there":  {func(c *Citadel) { c.Addr = meshtest.Address(t) }, codes.Unavailable},
		"hangs":         {func(c *Citadel) { c.Addr, c.Timeout = silent.Addr().String(), 200*time.Millisecond }, codes.DeadlineExceeded},
		"other roots":   {func(c *Citadel) { c.RootFile = writePEM(t, dir, "other", pemText(stranger.cert)) }, codes.Unavailable},
		"other name":    {func(c *Citadel) { c.Addr = strings.Replace(c.Addr, "127.0.0.1", "localhost", 1) }, codes.Unavailable},
		"no token":      {func(c *Citadel) { c.TokenFile = filepath.Join(dir, "none") }, codes.Unauthenticated},
		"empty token":   {func(c *Citadel) { c.TokenFile = writePEM(t, dir, "empty", "\n") }, codes.Unauthenticated},
		"no root file":  {func(c *Citadel) { c.RootFile = filepath.Join(dir, "none") }, codes.Unknown},
		"no roots":      {func(c *Citadel) { c.RootFile = writePEM(t, dir, "blank", "\n") }, codes.Unknown},
		"no port given": {func(c *Citadel) { c.Addr = "127.0.0.1" }, codes.Unknown},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			citadel := good
			c.change(&citadel)
			_, err := citadel.Fetch(t.Context(), id)
			if err == nil {
				t.Fatal("no error")
			}
			if got := status.Code(err); got != c.code {
				t.Errorf("%v: code %v, want %v", err, got, c.code)
			}
		})
	}

	// A refusal that quotes what it was sent must not bring a token into the log
	// by way of our own words; the agent adds none.
	server.answer = func(*x509.CertificateRequest) ([]string, error) {
		return nil, status.Error(codes.Unauthenticated, "who are you")
	}
	if _, err := good.Fetch(t.Context(), id); status.Code(err) != codes.Unauthenticated || strings.Contains(err.Error(), "first") {
		t.Errorf("refused: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := good.Fetch(ctx, id); err == nil {
		t.Error("fetched after the end")
	}
}
