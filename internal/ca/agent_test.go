package ca

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/api/legacycsr"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// rawBytes sends and receives messages as they are on the wire.
type rawBytes struct{}

func (rawBytes) Name() string { return "proto" }

func (rawBytes) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return nil, fmt.Errorf("%T", v)
}

func (rawBytes) Unmarshal(data []byte, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T", v)
	}
	*p = bytes.Clone(data)
	return nil
}

// vector is a request as a client of others' was seen, or is known, to send it.
type vector struct {
	Method   string
	Headers  map[string][]string
	Request  []byte `json:"request_base64"`
	Validity int64  `json:"validity_duration"`
}

func readVectors[T any](t *testing.T, name string) map[string]T {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]T
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// replay sends a vector byte for byte, with a token in place of the one it was recorded
// with, over a connection under the name that the client expects.
func (v vector) replay(t *testing.T, conn *grpc.ClientConn, out proto.Message) {
	t.Helper()
	ctx := t.Context()
	for header, values := range v.Headers {
		switch {
		case strings.HasPrefix(header, ":"), header == "content-type", header == "user-agent": // the client's transport writes these
		case header == "authorization":
			ctx = withToken(ctx, "Bearer "+token)
		default:
			for _, value := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, header, value)
			}
		}
	}
	var answer []byte
	if err := conn.Invoke(ctx, v.Method, v.Request, &answer, grpc.ForceCodec(rawBytes{})); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(answer, out); err != nil {
		t.Fatal(err)
	}
}

func expectLife(t *testing.T, leaf *x509.Certificate, seconds int64) {
	t.Helper()
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != time.Duration(seconds)*time.Second+2*time.Minute {
		t.Errorf("lives %v", life)
	}
}

// TestIstioAgent replays what Istio's agent was recorded to send, over TLS under the
// name that it expects.
func TestIstioAgent(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	recorded := 0
	for name, v := range readVectors[vector](t, "istio-agent.json") {
		if v.Method == "" {
			continue // is about answers
		}
		recorded++
		t.Run(name, func(t *testing.T) {
			var out securityapi.IstioCertificateResponse
			v.replay(t, dial(t, a, NewService(a, asSleep, ServiceOptions{}), v.Headers[":authority"][0]), &out)
			expectLife(t, expectChain(t, out.CertChain, sleepID, time.Now()), v.Validity)
		})
	}
	if recorded != 3 {
		t.Errorf("%d recordings, want 3", recorded)
	}
}

// Istio's agent sends a request again after some codes and not after others, as was
// recorded. It is told to where that can help, and nowhere else.
func TestCodesAndWhatIstioAgentMakesOfThem(t *testing.T) {
	calls := readVectors[map[string]json.RawMessage](t, "istio-agent.json")["responses as the agent takes them"]
	fault := errors.New("x")
	a, _ := open(t, time.Now(), Options{})
	_, nameless := NewService(a, asSleep, ServiceOptions{}).subject(t.Context(), Caller{Account: mesh.ServiceAccount{Namespace: "a/b", Name: "c"}}, nil)
	for _, c := range []struct {
		refusal *refusal
		again   bool
	}{
		{unproven(RuleToken, fault), false},
		{nameless, false},
		{invalid(RuleCSR, fault), false},
		{unissued(errPossession), false},
		{unissued(breaks(RuleRevoked, fault)), false},
		{unanswered(t.Context(), ErrUnauthenticated, unproven(RuleToken, fault)), false},
		{unanswered(t.Context(), ErrUnavailable, nil), true},
		{unanswered(t.Context(), context.DeadlineExceeded, nil), true},
		{turnedAway(t.Context(), &Busy{}), true},
		{unissued(errIssuer), true},
		{unissued(breaks(RuleRecord, fault)), true},
		{unissued(breaks(RuleRevocations, errRevocations)), true},
		{unissued(fault), true},
	} {
		var recorded struct{ Calls int }
		if err := json.Unmarshal(calls[c.refusal.code.String()], &recorded); err != nil {
			t.Fatalf("%s: %v", c.refusal.code, err)
		}
		if again := recorded.Calls > 1; again != c.again {
			t.Errorf("%s is answered with %s: the agent calls %d times", c.refusal.rule, c.refusal.code, recorded.Calls)
		}
	}
}

// known is what a client is known to send, and as whom it expects Citadel.
type known struct {
	vector
	SNI     string
	Seconds int64
}

// TestOtherClients sends what the clients of Istio 1.1 and ztunnel do, by what is known
// of them.
func TestOtherClients(t *testing.T) {
	vectors := readVectors[known](t, "other-clients.json")
	a, _ := openBelow(t, time.Now())

	t.Run("node agent of 1.1", func(t *testing.T) {
		v := vectors["node agent of 1.1"]
		var out securityapi.IstioCertificateResponse
		v.replay(t, dial(t, a, NewService(a, asSleep, ServiceOptions{}), v.SNI), &out)
		expectLife(t, expectChain(t, out.CertChain, sleepID, time.Now()), v.Seconds)
	})

	t.Run("VM agent of 1.1", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { virtualMachine(t, vectors["VM agent of 1.1"]) })
	})

	t.Run("ztunnel", func(t *testing.T) {
		v := vectors["ztunnel"]
		service := trusting(a, asZtunnel, node())
		var out securityapi.IstioCertificateResponse
		v.replay(t, dial(t, a, service, v.SNI), &out)
		expectLife(t, expectChain(t, out.CertChain, sleepID, time.Now()), v.Seconds)
		// It takes one certificate from each element but the last.
		for i, element := range out.CertChain[:len(out.CertChain)-1] {
			if n := strings.Count(element, "BEGIN CERTIFICATE"); n != 1 {
				t.Errorf("element %d has %d certificates", i, n)
			}
		}
	})
}

// virtualMachine is the agent of 1.1 on a virtual machine for two weeks. Somebody gets its
// first certificate, by a token that is bound to no pod. The agent, which knows no tokens,
// asks as soon as it starts, and again when half of the certificate's life is left; it
// shows the certificate that it found at its start, each time.
func virtualMachine(t *testing.T, v known) {
	var kept book
	a, path := openBelow(t, time.Now())
	a.options.Recorder = &kept
	service := NewService(a, asSleep, ServiceOptions{
		Workloads:       &running{accounts: []mesh.ServiceAccount{sleep}},
		PodlessAccounts: []mesh.ServiceAccount{{Namespace: sleep.Namespace, Name: sleep.Name}},
	})
	byToken := func() held {
		key := ecdsaKey(t, elliptic.P256())
		out, err := service.Legacy().HandleCSR(bearing(t, "podless"), &legacycsr.CsrRequest{
			CsrPem: []byte(csr(t, key, x509.CertificateRequest{})), RequestedTtlMinutes: int32(v.Seconds / 60),
		})
		if err != nil {
			t.Fatal(err)
		}
		return held{append([]*x509.Certificate{parseLeaf(t, string(out.SignedCert))}, path[:2]...), key}
	}
	began := time.Now()
	own := byToken()
	time.Sleep(time.Hour)
	renew := func() *x509.Certificate {
		var out legacycsr.CsrResponse
		v.replay(t, dial(t, a, service, v.SNI, own.pair()), &out)
		if !out.IsApproved || out.Status != nil {
			t.Errorf("approved is %t, status %v", out.IsApproved, out.Status)
		}
		if want := encodeCertificates(path[:2]); !bytes.Equal(out.CertChain, want) {
			t.Errorf("chain %s\nwant what is between leaf and root", out.CertChain)
		}
		leaf := parseLeaf(t, string(out.SignedCert))
		expectLeaf(t, leaf, string(a.Bundle()), sleepID, nil, time.Now(), path[:2]...)
		expectLife(t, leaf, min(v.Seconds, int64(MaxRenewal/time.Second)))
		return leaf
	}
	var leaf *x509.Certificate
	renewals := 0
	for time.Since(began) < MaxRenewal {
		leaf = renew()
		renewals++
		time.Sleep(time.Until(leaf.NotAfter) - leaf.NotAfter.Sub(leaf.NotBefore)/2)
	}
	if renewals != 2 { // at its start, and half a week later
		t.Errorf("%d renewals within the week", renewals)
	}
	// It has days left, to start the agent with a certificate by another token.
	if left := time.Until(leaf.NotAfter); left < 3*24*time.Hour {
		t.Errorf("ends in %v", left)
	}
	kept.entries = nil
	_, err := obtain(t, shown(t.Context(), "", append([]*x509.Certificate{leaf}, path[:2]...)...), service)
	expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
	kept.expectRefusal(t, err, RuleCertificateAge)
	own = byToken()
	leaf = renew()
	time.Sleep(time.Until(leaf.NotAfter) - leaf.NotAfter.Sub(leaf.NotBefore)/2)
	renew()
}
