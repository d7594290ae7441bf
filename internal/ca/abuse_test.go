package ca

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/api/legacycsr"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestAbuse has what is known to have been tried on the CAs of meshes, by its number in
// the list that we keep of it.
func TestAbuse(t *testing.T) {
	for name, abuse := range map[string]func(*testing.T){
		"01_names_another_account":       abuseAnotherName,
		"02_anothers_public_key":         abuseAnothersKey,
		"03_asks_to_be_a_CA":             abuseExtensions,
		"04_asks_for_a_server's_name":    abuseServerName,
		"05_names_joined_by_commas":      abuseJoinedNames,
		"06_foreign_trust_domain":        abuseForeignDomain,
		"07_no_live_pod_on_the_node":     abuseNoPodOnNode,
		"08_impersonates_unasked":        abuseNoNodeProxy,
		"09_impersonates_by_certificate": abuseImpersonationByCertificate,
		"11_token_without_a_pod":         abusePodless,
		"13_huge_requests":               abuseHuge,
		"14_huge_keys":                   abuseHugeKeys,
		"15_weak_keys_and_hashes":        abuseWeak,
		"16_more_than_a_CSR":             abuseGarbage,
		"17_lifetimes_that_wrap":         abuseLifetimes,
		"18_lifetime_beyond_the_signer":  abuseLifetime,
		"22_another_cluster's_word":      abuseClusterID,
		"23_identities_in_headers":       abuseHeaders,
		"24_certificate_of_an_old_root":  abuseOldRoot,
		"25_certificate_with_DNS_names":  abuseDNSNames,
		"32_plugged_in_CA_is_spoilt":     abuseSpoiltCA,
		"33_clock_an_hour_off":           abuseClock,
		"33_clock_an_hour_off,_callers":  abuseCallersClock,
		"34_serials_of_replicas":         abuseSerials,
		"35_lines_and_keys_in_the_log":   abuseLog,
		"37_foreign_intermediate":        abuseForeignIntermediate,
	} {
		t.Run(name, abuse)
	}
}

// both sends a CSR to both services and expects the same of them: an answer for the
// caller that carries nothing but its identity, for OK, else a refusal.
func both(t *testing.T, csr string, want codes.Code, rule Rule) {
	t.Helper()
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	service := NewService(a, asSleep, ServiceOptions{})
	current, err := service.CreateCertificate(bearing(t, token), &securityapi.IstioCertificateRequest{Csr: csr})
	older, olderErr := service.Legacy().HandleCSR(bearing(t, token), &legacycsr.CsrRequest{CsrPem: []byte(csr)})
	if codeOf(err) != want || codeOf(olderErr) != want {
		t.Errorf("%v, %v, want %s", err, olderErr, want)
		return
	}
	for _, e := range kept.entries {
		if e.Rule != string(rule) {
			t.Errorf("by rule %s, want %s", e.Rule, rule)
		}
	}
	if want == codes.OK {
		expectChain(t, current.CertChain, sleepID, time.Now())
		expectLeaf(t, parseLeaf(t, string(older.SignedCert)), string(a.Bundle()), sleepID, nil, time.Now())
	}
}

func abuseAnotherName(t *testing.T) {
	for _, uri := range []string{
		httpbinID, "spiffe://cluster.local/ns/kube-system/sa/sleep", "spiffe://other/ns/default/sa/sleep2", "https://example.com",
		"spiffe://u@cluster.local/ns/default/sa/sleep",
	} {
		both(t, csrFor(t, uri), codes.InvalidArgument, RuleCSRName)
		both(t, csrFor(t, sleepID, uri), codes.InvalidArgument, RuleCSRName)
	}
}

func abuseAnothersKey(t *testing.T) {
	// A CSR over another's key, signed with one's own.
	block, err := onlyBlock([]byte(csrFor(t)))
	if err != nil {
		t.Fatal(err)
	}
	mine, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := x509.MarshalPKIXPublicKey(ecdsaKey(t, elliptic.P256()).Public())
	if err != nil {
		t.Fatal(err)
	}
	grafted := bytes.Replace(block.Bytes, mine.RawSubjectPublicKeyInfo, theirs, 1)
	both(t, inPEM("CERTIFICATE REQUEST", grafted), codes.InvalidArgument, RuleCSRPossession)
}

func abuseExtensions(t *testing.T) {
	der := func(v any) []byte {
		out, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	both(t, csr(t, ecdsaKey(t, elliptic.P256()), x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "istiod"},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: der(struct{ CA bool }{true})},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: der(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7})},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: der([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}})},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: []byte{0x30, 0}},
			{Id: originOID(), Value: encoded(t, leafOrigin{byToken, sleep.UID, "p1", time.Now()})},
		},
	}), codes.OK, "")
}

func abuseServerName(t *testing.T) {
	both(t, csr(t, ecdsaKey(t, elliptic.P256()), x509.CertificateRequest{
		DNSNames: []string{"istiod.istio-system.svc"}, EmailAddresses: []string{"root@example.com"},
	}), codes.OK, "")
}

func abuseJoinedNames(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	service := trusting(a, asZtunnel, node())
	for _, id := range []string{
		"spiffe://x,istiod.istio-system.svc,cluster.local/ns/default/sa/httpbin",
		"spiffe://cluster.local/ns/default/sa/httpbin,istiod.istio-system.svc",
		"spiffe://cluster.local/ns/default/sa/httpbin\x00",
		"spiffe://cluster.local/ns/default/sa/httpbin\n",
		"spiffe://cluster.local/ns/default/sa/httpbin/",
		"spiffe://cluster.local/ns/default/sa/../sa/httpbin",
		"spiffe://cluster.local/ns/default/sa/httpbin%2c",
		"SPIFFE://cluster.local/ns/default/sa/httpbin",
	} {
		_, err := impersonate(t, bearing(t, token), service, id)
		expectRefusal(t, err, codes.Unauthenticated, "request impersonation authentication failure")
	}
}

func abuseForeignDomain(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	service := trusting(a, asZtunnel, node())
	for _, id := range []string{
		"spiffe:///ns/default/sa/httpbin", "spiffe://other.example/ns/default/sa/httpbin", "spiffe://cluster.local:443/ns/default/sa/httpbin",
	} {
		_, err := impersonate(t, bearing(t, token), service, id)
		expectRefusal(t, err, codes.Unauthenticated, "request impersonation authentication failure")
	}
}

func abuseNoPodOnNode(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	ended := node()
	for i := range ended.pods {
		ended.pods[i].Live = false
	}
	moved := node()
	for i := range moved.pods {
		moved.pods[i].Node = "n2"
	}
	for _, cluster := range []Workloads{ended, moved, mistaken{moved.pods[1]}, &running{}} {
		_, err := impersonate(t, bearing(t, token), trusting(a, asZtunnel, cluster), httpbinID)
		expectRefusal(t, err, codes.Unauthenticated, "request impersonation authentication failure")
	}
}

func abuseNoNodeProxy(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	beside := func(ctx context.Context, token string) (Caller, error) { // all that a node proxy is, but listed
		c, err := asSleep(ctx, token)
		c.Node = "n1"
		return c, err
	}
	_, err := impersonate(t, bearing(t, token), trusting(a, beside, node()), httpbinID)
	expectRefusal(t, err, codes.Unauthenticated, "request impersonation authentication failure")
	kept.expectRefusal(t, err, RuleImpersonator)
	if info := errorInfo(t, err); info.Reason != "IMPERSONATION" {
		t.Errorf("told %q", info.Reason)
	}
	_, err = impersonate(t, bearing(t, token), trusting(a, asZtunnel, nil), httpbinID) // where nobody knows what runs
	expectRefusal(t, err, codes.Unauthenticated, "request impersonation authentication failure")
}

func abuseImpersonationByCertificate(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	cluster := node()
	cluster.pods = append(cluster.pods, mesh.Pod{UID: "zp", Account: ztunnel, Node: "n1", Live: true})
	service := trusting(a, asZtunnel, cluster)
	own := mustObtain(t, bearing(t, token), service)
	ctx := shown(t.Context(), "", own.chain...)
	_, err := impersonate(t, ctx, service, httpbinID)
	expectRefusal(t, err, codes.Unauthenticated, "request impersonation authentication failure")
	if e := kept.entries[len(kept.entries)-1]; !strings.Contains(e.Reason, "only a token tells") {
		t.Errorf("refused for another reason: %s", e.Reason)
	}
	mustObtain(t, ctx, service) // for itself, it is good

	// Nor is what a node proxy was given for a pod the pod's proof from then on.
	for range 2 {
		out, err := impersonate(t, bearing(t, token), service, httpbinID)
		if err != nil {
			t.Fatal(err)
		}
		_, err = obtain(t, shown(t.Context(), "", parseLeaf(t, out.CertChain[0])), service)
		expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
	}
}

func abusePodless(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	_, err := obtain(t, bearing(t, "podless"), NewService(a, asSleep, ServiceOptions{PodlessAccounts: []mesh.ServiceAccount{ztunnel}}))
	expectRefusal(t, err, codes.Unauthenticated, "token is bound to no pod")
	kept.expectRefusal(t, err, RuleTokenPod)
}

func abuseHuge(t *testing.T) {
	good := csrFor(t)
	largest := good + strings.Repeat("\n", maxRequest-len(good))
	both(t, largest, codes.OK, "")
	both(t, largest+"\n", codes.InvalidArgument, RuleCSR)
	a, _ := open(t, time.Now(), Options{})
	examined := 0
	service := NewService(a, func(context.Context, string) (Caller, error) {
		examined++
		return Caller{}, ErrUnauthenticated
	}, ServiceOptions{})
	_, err := obtain(t, bearing(t, strings.Repeat("x", maxToken+1)), service)
	expectRefusal(t, err, codes.InvalidArgument, "authorization: token of 16385 bytes, at most 16384")
	huge := strings.Repeat("x", maxRequest+1)
	_, err = service.CreateCertificate(bearing(t, token), &securityapi.IstioCertificateRequest{Csr: huge})
	expectRefusal(t, err, codes.InvalidArgument, "csr: 16385 bytes, at most 16384")
	_, err = service.Legacy().HandleCSR(bearing(t, token), &legacycsr.CsrRequest{CsrPem: []byte(huge)})
	expectRefusal(t, err, codes.InvalidArgument, "csr: 16385 bytes, at most 16384")
	if examined != 0 {
		t.Error("a huge token is examined")
	}
	_, err = obtain(t, bearing(t, strings.Repeat("x", maxToken)), service)
	expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
	if examined != 1 {
		t.Error("the largest token is not examined")
	}
}

func abuseHugeKeys(t *testing.T) {
	both(t, rsaCSR(t, oddBits(65536), math.MaxInt32), codes.InvalidArgument, RuleCSRKey)
	both(t, rsaCSR(t, oddBits(4097), 65537), codes.InvalidArgument, RuleCSRKey)
	both(t, rsaCSR(t, oddBits(2048), math.MaxInt32), codes.InvalidArgument, RuleCSRKey)
}

func abuseWeak(t *testing.T) {
	both(t, rsaCSR(t, oddBits(1024), 65537), codes.InvalidArgument, RuleCSRKey)
	both(t, csr(t, ecdsaKey(t, elliptic.P224()), x509.CertificateRequest{}), codes.InvalidArgument, RuleCSRKey)
	both(t, csr(t, rsa2048(), x509.CertificateRequest{SignatureAlgorithm: x509.SHA1WithRSA}), codes.InvalidArgument, RuleCSRAlgorithm)
}

func abuseGarbage(t *testing.T) {
	good := csrFor(t)
	for _, text := range []string{
		"", "\x00", "\xff\xfe", good + "x", "x\n" + good, good + good, good + "\x00", strings.Replace(good, "\n", "\r\n\x00", 1),
		strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"), strings.Replace(good, "\n", "\nProc-Type: 4,ENCRYPTED\n\n", 1),
		"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
		"-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n" + good,
	} {
		both(t, text, codes.InvalidArgument, RuleCSR)
	}
}

func abuseLifetimes(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	service := NewService(a, asSleep, ServiceOptions{})
	text := csrFor(t)
	for seconds, want := range map[int64]time.Duration{
		-1: DefaultTTL, math.MinInt64: DefaultTTL, 0: DefaultTTL, math.MaxInt64: 0, 1 << 55: 0, 1<<55 + 60: 0,
	} {
		out, err := service.CreateCertificate(bearing(t, token), &securityapi.IstioCertificateRequest{Csr: text, ValidityDuration: seconds})
		if want == 0 {
			if codeOf(err) != codes.InvalidArgument {
				t.Errorf("%d s: %v", seconds, err)
			}
		} else if leaf := parseLeaf(t, out.GetCertChain()[0]); leaf.NotAfter.Sub(leaf.NotBefore) != want+skew {
			t.Errorf("%d s: %v", seconds, leaf.NotAfter.Sub(leaf.NotBefore))
		}
	}
	for minutes, want := range map[int32]time.Duration{
		-1: DefaultTTL, math.MinInt32: DefaultTTL, 0: DefaultTTL, 60: time.Hour, 129600: DefaultMaxTTL, 129601: 0, math.MaxInt32: 0,
	} {
		out, err := service.Legacy().HandleCSR(bearing(t, token), &legacycsr.CsrRequest{CsrPem: []byte(text), RequestedTtlMinutes: minutes})
		if want == 0 {
			expectRefusal(t, err, codes.InvalidArgument, fmt.Sprintf("requested_ttl_minutes: %d s, at most 7776000 s", int64(minutes)*60))
		} else if leaf := parseLeaf(t, string(out.GetSignedCert())); leaf.NotAfter.Sub(leaf.NotBefore) != want+skew {
			t.Errorf("%d min: %v", minutes, leaf.NotAfter.Sub(leaf.NotBefore))
		}
	}
}

// Whoever calls, and whatever it says of where it comes from, one cluster's word counts.
func abuseClusterID(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	conn := dial(t, a, NewService(a, asSleep, ServiceOptions{}), "istio-citadel")
	for credential, want := range map[string]codes.Code{token: codes.OK, "x": codes.Unauthenticated} {
		ctx := withHeader(withToken(t.Context(), "Bearer "+credential), "clusterid", "hostile", "clusterid", "Kubernetes")
		out, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t)})
		if codeOf(err) != want {
			t.Errorf("%s: %v", credential, err)
		}
		if err == nil {
			expectChain(t, out.CertChain, sleepID, time.Now())
		}
	}
}

func abuseHeaders(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	conn := dial(t, a, NewService(a, asSleep, ServiceOptions{}), "istio-citadel")
	ctx := withHeader(t.Context(), "x-forwarded-client-cert", "Hash=0;Subject=\"CN=sleep\";URI="+sleepID)
	_, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t)})
	expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
}

// The handshake was by the root of its day; the root went while the connection stayed.
func abuseOldRoot(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	next, _ := open(t, time.Now(), Options{})
	service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
	own := mustObtain(t, bearing(t, token), service)
	client := securityapi.NewIstioCertificateServiceClient(dial(t, a, service, "istio-citadel", own.pair()))
	ask := func() error {
		_, err := client.CreateCertificate(t.Context(), &securityapi.IstioCertificateRequest{Csr: csrFor(t)})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	a.current.Store(next.current.Load())
	expectRefusal(t, ask(), codes.Unauthenticated, "request authenticate failure")
}

func abuseDNSNames(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
	now := time.Now()
	server := signLeaf(t, a, names{
		id: mustID(t, sleepID), dns: []string{"istiod.istio-system.svc"}, origin: encoded(t, leafOrigin{byToken, sleep.UID, "p1", now}),
	}, now)
	renewed := mustObtain(t, shown(t.Context(), "", server.chain...), service)
	expectLeaf(t, renewed.chain[0], string(a.Bundle()), sleepID, nil, time.Now())
}

// A clock that is an hour off, either way, makes certificates that begin and end with
// those of the issuer, or none.
func abuseCallersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, time.Now().Add(time.Hour), Options{}) // made by a replica whose clock is an hour ahead
		service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
		_, err := obtain(t, bearing(t, token), service)
		expectRefusal(t, err, codes.Unavailable, "the signing certificate is not usable now")
		time.Sleep(time.Hour - skew/2) // the issuer begins as far in the past as a certificate would
		h := mustObtain(t, bearing(t, token), service)
		if i := a.current.Load(); !h.chain[0].NotBefore.Equal(i.notBefore) {
			t.Errorf("begins %v, the issuer %v", h.chain[0].NotBefore, i.notBefore)
		}
		time.Sleep(skew / 2)
		// A certificate from an hour ahead does not renew, nor is its time prolonged.
		from := encoded(t, leafOrigin{byToken, sleep.UID, "p1", time.Now().Add(time.Hour)})
		ahead := signLeaf(t, a, names{id: mustID(t, sleepID), origin: from}, time.Now())
		_, err = obtain(t, shown(t.Context(), "", ahead.chain...), service)
		expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
		time.Sleep(time.Hour - skew)
		now := signLeaf(t, a, names{id: mustID(t, sleepID), origin: from}, time.Now())
		mustObtain(t, shown(t.Context(), "", now.chain...), service)
	})
}
