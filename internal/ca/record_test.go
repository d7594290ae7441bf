package ca

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// book is a record in memory, which can be made to fail.
type book struct {
	mu      sync.Mutex
	entries []ledger.Entry
	err     error
}

func (b *book) Append(e ledger.Entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.entries = append(b.entries, e)
	}
	return b.err
}

// only returns the one entry that there is besides those of Secrets, of which the
// server under test has one.
func (b *book) only(t testing.TB) ledger.Entry {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := slices.DeleteFunc(slices.Clone(b.entries), func(e ledger.Entry) bool { return e.How == string(proofSecret) })
	if len(asked) != 1 {
		t.Fatalf("%d entries in the record, want one", len(asked))
	}
	return asked[0]
}

var requestSuffix = regexp.MustCompile(` \(request ([0-9a-f]{16})\)$`)

// expectRefusal compares what a client is told, but for the number of the request.
func expectRefusal(t testing.TB, err error, code codes.Code, message string) {
	t.Helper()
	told := status.Convert(err).Message()
	if !requestSuffix.MatchString(told) {
		t.Errorf("%q does not end with the number of the request", told)
	}
	if got := requestSuffix.ReplaceAllString(told, ""); status.Code(err) != code || got != message {
		t.Errorf("%s: %s\nwant %s: %s", status.Code(err), got, code, message)
	}
}

// errorInfo returns the detail of a refusal that programs read.
func errorInfo(t testing.TB, err error) *errdetails.ErrorInfo {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	t.Fatalf("%v: no ErrorInfo", err)
	return nil
}

// expectRefusal holds the record to what the client saw: one entry, found by the number
// that the client has twice, with the rule.
func (b *book) expectRefusal(t testing.TB, err error, rule Rule) {
	t.Helper()
	e := b.only(t)
	if e.Event != ledger.Refused || e.Code != status.Code(err).String() || e.Rule != string(rule) || e.Reason == "" || e.Time.IsZero() {
		t.Errorf("recorded %+v, want rule %s", e, rule)
	}
	number := requestSuffix.FindStringSubmatch(status.Convert(err).Message())
	if number == nil || number[1] != e.Request || errorInfo(t, err).Metadata["request"] != e.Request {
		t.Errorf("recorded as request %q, the client saw %v", e.Request, err)
	}
	if strings.Contains(e.Reason, token) {
		t.Error("the record has the token")
	}
}

func TestRecordOfACertificate(t *testing.T) {
	var kept book
	began := time.Now()
	a, secret := open(t, began, Options{Recorder: &kept})
	service := NewService(a, asSleep, ServiceOptions{})
	ctx := peer.NewContext(bearing(t, token), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 41234}})
	out, err := service.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t)})
	if err != nil {
		t.Fatal(err)
	}
	leaf := parseLeaf(t, out.CertChain[0])
	got := kept.only(t)
	want := ledger.Entry{
		Peer:  "10.0.0.7:41234",
		Event: "issued", ID: sleepID, Serial: leaf.SerialNumber.Text(16), Leaf: digest(leaf.Raw),
		Key: digest(leaf.RawSubjectPublicKeyInfo), Issuer: digest(parseLeaf(t, string(secret.Data[mesh.CACertKey])).Raw),
		NotAfter: leaf.NotAfter, How: "token-review", Pod: "p1",
		Time: got.Time, Request: got.Request, Policy: got.Policy,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(got.Request) != 16 || !strings.HasPrefix(got.Policy, "own-identity@") || got.Time.Before(began) || time.Now().Before(got.Time) {
		t.Errorf("%+v", got)
	}

	other := NewService(a, asSleep, ServiceOptions{PodlessAccounts: []mesh.ServiceAccount{sleep}})
	if other.own == service.own || other.own == other.byNode {
		t.Error("policies of different settings have one name")
	}
}

func TestRecordOfASecret(t *testing.T) {
	var kept book
	a, _ := open(t, noon, Options{Recorder: &kept})
	server := mesh.ServiceAccount{Namespace: "istio-system", Name: "istio-citadel-service-account", UID: "1"}
	leaf := parseLeaf(t, string(newSecret(t, a, server, noon).Data[mesh.CertChain]))
	got := kept.entries[0]
	if len(kept.entries) != 1 || got.Event != "issued" || got.How != "secret" || got.Leaf != digest(leaf.Raw) || !slices.Equal(got.DNS, leaf.DNSNames) || !got.Time.Equal(noon) {
		t.Errorf("%+v", got)
	}
	if originIn(leaf) != nil {
		t.Error("a certificate in a Secret has an origin, by which it could be renewed")
	}
}

// What cannot be recorded is not handed out.
func TestNothingIsIssuedWithoutRecord(t *testing.T) {
	kept := book{err: errors.New("disk full")}
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	var log bytes.Buffer
	_, err := obtain(t, bearing(t, token), NewService(a, asSleep, ServiceOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}))
	expectRefusal(t, err, codes.Unavailable, "certificates cannot be issued now")
	if strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("logged, once as our own fault:\n%s", log.String())
	}
	if _, err := a.NewSecret(sleep, time.Now()); err == nil {
		t.Error("a Secret was made")
	} else {
		wantError(t, err, "record: disk full")
	}
}

// What a stranger may know of the rule that it broke is that it is not proven.
func TestErrorInfo(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	service := NewService(a, asSleep, ServiceOptions{})
	for credential, want := range map[string]string{"x": "UNAUTHENTICATED", "podless": "TOKEN_POD", token: "CSR", "slow": "AUTHENTICATION_UNAVAILABLE"} {
		_, err := service.CreateCertificate(bearing(t, credential), &securityapi.IstioCertificateRequest{})
		if info := errorInfo(t, err); info.Reason != want || info.Domain != "garrison.io" {
			t.Errorf("%s: %v, want %s", credential, info, want)
		}
	}
}

func TestRequestNumberComesAsTrailer(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	conn := dial(t, a, NewService(a, asSleep, ServiceOptions{}), "istio-citadel")
	var trailer metadata.MD
	_, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(withToken(t.Context(), "Bearer "+token),
		&securityapi.IstioCertificateRequest{Csr: csrFor(t)}, grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	if got := trailer.Get(mesh.RequestTrailer); len(got) != 1 || got[0] != kept.only(t).Request {
		t.Errorf("trailer %v, recorded %q", got, kept.only(t).Request)
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("short"); got != "short" {
		t.Errorf("%q", got)
	}
	if got := shorten(strings.Repeat("ü", 300)); got != strings.Repeat("ü", 200)+"…" {
		t.Errorf("%q", got)
	}
	if got := shorten("x" + strings.Repeat("ü", 300)); got != "x"+strings.Repeat("ü", 199)+"…" {
		t.Errorf("%q", got)
	}
}

// No two requests have the same number.
func TestRequestNumbers(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		seen[newRequestID()] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d numbers of 100 requests", len(seen))
	}
}
