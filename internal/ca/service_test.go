package ca

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/api/legacycsr"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

const token = "header.payload.signature"

// asSleep takes one token for the sleep account's.
func asSleep(_ context.Context, got string) (Caller, error) {
	switch got {
	case token:
		return Caller{Account: sleep, PodName: "sleep-1", PodUID: "p1", How: ProofReview}, nil
	case "slow":
		return Caller{}, fmt.Errorf("review: %w", ErrUnavailable)
	case "late":
		return Caller{}, fmt.Errorf("review: %w", context.DeadlineExceeded)
	case "broken":
		return Caller{}, errors.New("what is this")
	case "odd":
		return Caller{Account: mesh.ServiceAccount{Namespace: "a/b", Name: "c", UID: "u"}, PodUID: "p2"}, nil
	case "podless":
		return Caller{Account: sleep}, nil
	}
	return Caller{}, fmt.Errorf("review: %w: wrong audience", ErrUnauthenticated)
}

// dial serves both CSR APIs over TLS in memory, with the certificate that Citadel's
// account is issued, and connects to it under a name, with a certificate if there is one.
func dial(t testing.TB, a *Authority, service *Service, serverName string, own ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	secret := newSecret(t, a, mesh.ServiceAccount{Namespace: "istio-system", Name: "istio-citadel-service-account", UID: "1"}, time.Now())
	serving := new(serve.Certificate)
	if err := serving.Set(secret.Data[mesh.CertChain], secret.Data[mesh.CertKey], time.Now()); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(serving.TLSWithClients(a.ClientRoots, "h2"))))
	securityapi.RegisterIstioCertificateServiceServer(server, service)
	legacycsr.RegisterIstioCAServiceServer(server, service.Legacy())
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Bundle())
	client := &tls.Config{ServerName: serverName, RootCAs: roots}
	if len(own) > 0 { // shown whatever roots the server names, as a stranger would
		client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own[0], nil }
	}
	conn, err := grpc.NewClient("passthrough:///citadel",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(client)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := conn.Close()
		server.Stop()
		if err := errors.Join(err, <-served); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func withToken(ctx context.Context, values ...string) context.Context {
	for _, v := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
	}
	return ctx
}

func withHeader(ctx context.Context, kv ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// bearing is the context of a call in process that carries a token.
func bearing(t testing.TB, token string) context.Context {
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
}

func fieldsOf(t testing.TB, kv map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(kv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// expectChain holds an answer to what Istio's clients take apart: the leaf, what lies
// between, one by one, then the roots, each element with its newline.
func expectChain(t testing.TB, chain []string, id string, now time.Time) *x509.Certificate {
	t.Helper()
	if len(chain) < 2 {
		t.Fatalf("%d elements, want at least leaf and roots", len(chain))
	}
	for i, element := range chain {
		if !strings.HasSuffix(element, "-----END CERTIFICATE-----\n") {
			t.Errorf("element %d does not end in a newline", i)
		}
	}
	leaf := parseLeaf(t, chain[0])
	var between []*x509.Certificate
	for _, element := range chain[1 : len(chain)-1] {
		between = append(between, parseLeaf(t, element))
	}
	expectLeaf(t, leaf, chain[len(chain)-1], id, nil, now, between...)
	return leaf
}

func TestCreateCertificate(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	conn := dial(t, a, NewService(a, asSleep, ServiceOptions{Log: logger}), "istio-citadel")
	client := securityapi.NewIstioCertificateServiceClient(conn)
	key := ecdsaKey(t, elliptic.P256())
	out, err := client.CreateCertificate(withToken(t.Context(), "Basic x", "Bearer "+token), &securityapi.IstioCertificateRequest{
		Csr:              csr(t, key, x509.CertificateRequest{URIs: urls(t, sleepID)}),
		ValidityDuration: 3600,
		Metadata:         fieldsOf(t, map[string]any{"CertSigner": "", "ImpersonatedIdentity": ""}),
	})
	if err != nil {
		t.Fatal(err)
	}
	leaf := expectChain(t, out.CertChain, sleepID, time.Now())
	if !equalKeys(leaf.PublicKey, key.Public()) {
		t.Error("another key")
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != time.Hour+2*time.Minute {
		t.Errorf("lives %v, want 1h2m", life)
	}
	if out.CertChain[1] != string(a.Bundle()) {
		t.Error("the last element is not the bundle")
	}
	var line struct{ Msg, Level, ID, Serial, Expires, Pod string }
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("log %q: %v", log.String(), err)
	}
	if line.Msg != "issued" || line.Level != "DEBUG" || line.ID != sleepID || line.Pod != "sleep-1" ||
		line.Serial != leaf.SerialNumber.Text(16) || line.Expires != leaf.NotAfter.Format(time.RFC3339) {
		t.Errorf("logged %s", log.String())
	}
}

func TestCreateCertificateRefuses(t *testing.T) {
	good := csrFor(t, sleepID)
	forged := []byte(good)
	at := strings.LastIndex(good, "\n-----END") - 8 // in the signature
	forged[at] = map[bool]byte{true: 'B', false: 'A'}[forged[at] == 'A']
	type fields = map[string]any
	const unproven = "request authenticate failure"
	cases := map[string]struct {
		authorization []string // nil: the good token
		csr           string   // "": the good one
		seconds       int64
		metadata      fields
		code          codes.Code
		message       string
		rule          Rule
	}{
		"no token":             {[]string{}, "", 0, nil, codes.Unauthenticated, unproven, RuleToken},
		"empty token":          {[]string{"Bearer "}, "", 0, nil, codes.Unauthenticated, unproven, RuleToken},
		"other scheme":         {[]string{"Basic " + token}, "", 0, nil, codes.Unauthenticated, unproven, RuleToken},
		"prefix in lower case": {[]string{"bearer " + token}, "", 0, nil, codes.Unauthenticated, unproven, RuleToken},
		"wrong token":          {[]string{"Bearer x"}, "", 0, nil, codes.Unauthenticated, unproven, RuleToken},
		"first token counts": {[]string{"Bearer x", "Bearer " + token}, "", 0, nil,
			codes.Unauthenticated, unproven, RuleToken},
		"wrong token comes before a bad CSR": {[]string{"Bearer x"}, "hello", -1, nil, codes.Unauthenticated, unproven, RuleToken},
		"huge token": {[]string{"Bearer " + strings.Repeat("x", maxToken+1)}, "", 0, nil,
			codes.InvalidArgument, "authorization: token of 16385 bytes, at most 16384", RuleTokenSize},
		"review unavailable": {[]string{"Bearer slow"}, "", 0, nil,
			codes.Unavailable, "authentication is not available", RuleUnavailable},
		"review too late": {[]string{"Bearer late"}, "", 0, nil,
			codes.Unavailable, "authentication is not available", RuleUnavailable},
		"token without a pod": {[]string{"Bearer podless"}, "", 0, nil,
			codes.Unauthenticated, "token is bound to no pod", RuleTokenPod},
		"review broken": {[]string{"Bearer broken"}, "", 0, nil, codes.Internal, "internal error", RuleInternal},
		"impossible account": {[]string{"Bearer odd"}, "", 0, nil,
			codes.InvalidArgument, `account: namespace "a/b": only lower case letters, digits, '-' and '.' are allowed`, RuleAccount},

		"impersonation": {nil, "", 0, fields{"ImpersonatedIdentity": "spiffe://cluster.local/ns/default/sa/httpbin"},
			codes.Unauthenticated, "request impersonation authentication failure", RuleImpersonator},
		"impersonation of oneself": {nil, "", 0, fields{"ImpersonatedIdentity": sleepID},
			codes.Unauthenticated, "request impersonation authentication failure", RuleImpersonator},
		"impersonation in a list": {nil, "", 0, fields{"ImpersonatedIdentity": []any{"x"}},
			codes.Unauthenticated, "request impersonation authentication failure", RuleImpersonator},
		"impersonation by a wrong token": {[]string{"Bearer x"}, "", 0, fields{"ImpersonatedIdentity": "x"},
			codes.Unauthenticated, unproven, RuleToken},
		"other signer": {nil, "", 0, fields{"CertSigner": "vault"},
			codes.InvalidArgument, "metadata: CertSigner: there are no other signers", RuleSigner},

		"no PEM":     {nil, "hello", 0, nil, codes.InvalidArgument, "csr: PEM: does not begin with a block", RuleCSR},
		"two blocks": {nil, good + good, 0, nil, codes.InvalidArgument, "csr: PEM: data after the first block", RuleCSR},
		"forged":     {nil, string(forged), 0, nil, codes.InvalidArgument, "csr: signature: does not match the key", RuleCSRPossession},
		"P-224": {nil, csr(t, ecdsaKey(t, elliptic.P224()), x509.CertificateRequest{}), 0, nil,
			codes.InvalidArgument, "csr: key: ECDSA on P-224: only P-256 and P-384 are accepted", RuleCSRKey},
		"huge key": {nil, rsaCSR(t, oddBits(65536), math.MaxInt32), 0, nil,
			codes.InvalidArgument, "csr: key: RSA of 65536 bits: only 2048 to 4096 are accepted", RuleCSRKey},
		"SHA-1": {nil, csr(t, rsa2048(), x509.CertificateRequest{SignatureAlgorithm: x509.SHA1WithRSA}), 0, nil,
			codes.InvalidArgument, "csr: signature: algorithm SHA1-RSA is not accepted", RuleCSRAlgorithm},
		"other account": {nil, csrFor(t, "spiffe://cluster.local/ns/default/sa/httpbin"), 0, nil, codes.InvalidArgument,
			`csr: subject alternative name "spiffe://cluster.local/ns/default/sa/httpbin": the caller is ` + sleepID, RuleCSRName},

		"a second too long": {nil, "", 90*24*3600 + 1, nil,
			codes.InvalidArgument, "validity_duration: 7776001 s, at most 7776000 s", RuleTTL},
		"endless": {nil, "", math.MaxInt64, nil,
			codes.InvalidArgument, "validity_duration: 9223372036854775807 s, at most 7776000 s", RuleTTL},
		// 2^55 s are 2^55 × 10^9 ns, which wraps to 0, a default lifetime.
		"wraps to zero": {nil, "", 1 << 55, nil,
			codes.InvalidArgument, "validity_duration: 36028797018963968 s, at most 7776000 s", RuleTTL},
		"wraps to an hour": {nil, "", 1<<55 + 3600, nil,
			codes.InvalidArgument, "validity_duration: 36028797018967568 s, at most 7776000 s", RuleTTL},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var kept book
			a, _ := open(t, time.Now(), Options{Recorder: &kept})
			var log bytes.Buffer
			registry := prometheus.NewRegistry()
			conn := dial(t, a, NewService(a, asSleep, ServiceOptions{
				Log: slog.New(slog.NewJSONHandler(&log, nil)), Metrics: NewMetrics(registry, a),
			}), "istio-citadel")
			if c.authorization == nil {
				c.authorization = []string{"Bearer " + token}
			}
			if c.csr == "" {
				c.csr = good
			}
			in := &securityapi.IstioCertificateRequest{Csr: c.csr, ValidityDuration: c.seconds, Metadata: fieldsOf(t, c.metadata)}
			_, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(withToken(t.Context(), c.authorization...), in)
			expectRefusal(t, err, c.code, c.message)
			kept.expectRefusal(t, err, c.rule)
			if n := strings.Count(log.String(), `"msg":"refused"`); n != 1 || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("logged %q, want one refusal", log.String())
			}
			if strings.Contains(log.String(), token) {
				t.Error("the log has the token")
			}
			if n := counted(t, registry); n["csr_count"] != 1 || n["refusals_total"] != 1 || n["success_cert_issuance_count"] != 0 {
				t.Errorf("counted %v", n)
			}
		})
	}
}

func TestValidityDuration(t *testing.T) {
	o := Options{}.withDefaults()
	for seconds, want := range map[int64]time.Duration{
		math.MinInt64: DefaultTTL, -1: DefaultTTL, 0: DefaultTTL, 1: time.Second, 7776000: DefaultMaxTTL,
	} {
		if got, err := o.ttl(seconds); err != nil || got != want {
			t.Errorf("%d s: %v, %v, want %v", seconds, got, err, want)
		}
	}
}

// A certificate never outlives its issuer, and near the issuer's end the client
// is told to come again.
func TestCreateCertificateNearTheEndOfTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, time.Now(), Options{})
		service := NewService(a, asSleep, ServiceOptions{})
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
		request := &securityapi.IstioCertificateRequest{Csr: csrFor(t)}
		time.Sleep(DefaultRootTTL - time.Hour)
		out, err := service.CreateCertificate(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		leaf := expectChain(t, out.CertChain, sleepID, time.Now())
		if end, _ := a.Expiry(); !leaf.NotAfter.Equal(end) {
			t.Errorf("ends %v, the issuer %v", leaf.NotAfter, end)
		}
		if err := a.Ready(time.Now()); err != nil {
			t.Error(err)
		}
		time.Sleep(55 * time.Minute)
		_, err = service.CreateCertificate(ctx, request)
		expectRefusal(t, err, codes.Unavailable, "the signing certificate is not usable now")
		if a.Ready(time.Now()) == nil {
			t.Error("ready")
		}
	})
}

// An authenticator that hangs must not hang the client, which sets no deadline.
func TestCreateCertificateEndsWhenAuthenticationHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, time.Now(), Options{})
		hang := func(ctx context.Context, _ string) (Caller, error) {
			<-ctx.Done()
			return Caller{}, ctx.Err()
		}
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
		start := time.Now()
		_, err := NewService(a, hang, ServiceOptions{}).CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t)})
		if status.Code(err) != codes.Unavailable || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v, want Unavailable after 5s", err, time.Since(start))
		}
	})
}

// A client that hangs up is not a failure of authentication, however the
// authenticator puts it.
func TestCreateCertificateEndsWithItsClient(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	ctx, hangUp := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token)))
	cut := func(context.Context, string) (Caller, error) {
		hangUp()
		return Caller{}, fmt.Errorf("review: %w", ErrUnavailable)
	}
	_, err := NewService(a, cut, ServiceOptions{}).CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t)})
	if status.Code(err) != codes.Canceled {
		t.Errorf("%v, want Canceled", err)
	}
}

func TestCreateCertificateSurvivesPanics(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	var log bytes.Buffer
	service := NewService(a, func(context.Context, string) (Caller, error) { panic("parser") },
		ServiceOptions{Log: slog.New(slog.NewJSONHandler(&log, nil))})
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	out, err := service.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{})
	if out != nil {
		t.Error("answers all the same")
	}
	expectRefusal(t, err, codes.Internal, "internal error")
	if !strings.Contains(log.String(), `"panic":"parser"`) {
		t.Errorf("logged %q", log.String())
	}
}
