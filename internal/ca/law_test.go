package ca

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/api/legacycsr"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestIssuedIsWithinPolicy asks for all kinds of things at all kinds of times, as kinds of
// callers, and holds every certificate that comes out to what the settings allow: one
// URI, which is the caller's or for a node proxy that of a pod of its node; a life no
// longer than the longest and within that of everything it hangs from; no younger proof
// than there was.
func TestIssuedIsWithinPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2)) // the same each time
		options := Options{DefaultTTL: time.Hour, MaxTTL: 12 * time.Hour}
		a, path := openBelow(t, time.Now())
		a.options = options.withDefaults()
		service := trusting(a, func(ctx context.Context, token string) (Caller, error) {
			if token == "node" {
				return asZtunnel(ctx, token)
			}
			return asSleep(ctx, token)
		}, node())
		last := map[string]held{} // by identity
		issued, refused := 0, 0
		end := a.current.Load().notAfter
		for time.Now().Before(end) {
			time.Sleep(time.Duration(random.Int64N(int64(10 * 24 * time.Hour))))
			if left := time.Until(end); left > 0 && left < 11*24*time.Hour {
				time.Sleep(left - time.Duration(random.Int64N(int64(30*time.Minute)))) // the end deserves a look
			}
			for range 20 {
				var key crypto.Signer = ecdsaKey(t, elliptic.P256())
				template := x509.CertificateRequest{DNSNames: []string{"istiod.istio-system.svc"}}
				id := sleepID
				credential := [...]string{token, token, "node", "podless", "", "x"}[random.IntN(6)]
				in := &securityapi.IstioCertificateRequest{ValidityDuration: [...]int64{
					0, -1, 60, 3600, 12 * 3600, 12*3600 + 1, math.MaxInt64, 1 << 55, random.Int64(),
				}[random.IntN(9)]}
				if credential == "node" {
					id = [...]string{httpbinID, sleepID, "spiffe://cluster.local/ns/default/sa/nobody", "spiffe://x,y/ns/default/sa/httpbin"}[random.IntN(4)]
					in.Metadata = fieldsOf(t, map[string]any{impersonationKey: id})
				}
				if random.IntN(3) == 0 {
					template.URIs = urls(t, [...]string{sleepID, httpbinID, ztunnelID}[random.IntN(3)])
				}
				if random.IntN(10) == 0 {
					key = rsa2048()
				}
				in.Csr = csr(t, key, template)
				ctx := shown(t.Context(), credential)
				if h, ok := last[id]; ok && random.IntN(2) == 0 {
					ctx = shown(t.Context(), credential, h.chain...)
				}
				out, err := service.CreateCertificate(ctx, in)
				if err != nil {
					if c := codeOf(err); c == codes.Internal {
						t.Fatal(err)
					}
					refused++
					continue
				}
				issued++
				now := time.Now()
				leaf := expectChain(t, out.CertChain, id, now)
				if id != sleepID && id != httpbinID || !equalKeys(leaf.PublicKey, key.Public()) {
					t.Fatalf("issued for %s", id)
				}
				if life := leaf.NotAfter.Sub(now); life > options.MaxTTL {
					t.Fatalf("lives %v from now", life)
				}
				for _, c := range path {
					if leaf.NotBefore.Before(c.NotBefore) || leaf.NotAfter.After(c.NotAfter) {
						t.Fatalf("lives %v to %v, its issuer %v to %v", leaf.NotBefore, leaf.NotAfter, c.NotBefore, c.NotAfter)
					}
				}
				from, err := parseOrigin(originIn(leaf))
				if err != nil || from.proven.After(now) || now.Sub(from.proven) > MaxRenewal || (from.kind == byNode) != (credential == "node") {
					t.Fatalf("origin %+v, %v at %v", from, err, now)
				}
				if credential != "node" {
					last[id] = held{chain: append([]*x509.Certificate{leaf}, path[:2]...)}
				}
			}
		}
		if issued < 100 || refused < 100 {
			t.Errorf("%d issued, %d refused: the law holds of too little", issued, refused)
		}
	})
}

// A library of SPIFFE's takes what we issue for an SVID: to callers, to node proxies and
// in Secrets, with and without certificates between leaf and root.
func TestSPIFFE(t *testing.T) {
	now := time.Now()
	for name, a := range map[string]*Authority{"root": only(open(t, now, Options{})), "intermediate": only(openBelow(t, now))} {
		t.Run(name, func(t *testing.T) {
			domain := spiffeid.RequireTrustDomainFromString("cluster.local")
			bundle, err := x509bundle.Parse(domain, a.Bundle())
			if err != nil {
				t.Fatal(err)
			}
			expect := func(id string, chain, key []byte) {
				t.Helper()
				svid, err := x509svid.Parse(chain, key)
				if err != nil {
					t.Fatal(err)
				}
				got, _, err := x509svid.Verify(svid.Certificates, bundle)
				if err != nil || got.String() != id || svid.ID.String() != id {
					t.Errorf("%v, %v, want %s", got, err, id)
				}
			}
			for id, service := range map[string]*Service{
				sleepID: NewService(a, asSleep, ServiceOptions{}), httpbinID: trusting(a, asZtunnel, node()),
			} {
				private := ecdsaKey(t, elliptic.P256())
				in := &securityapi.IstioCertificateRequest{Csr: csr(t, private, x509.CertificateRequest{})}
				if id == httpbinID {
					in.Metadata = fieldsOf(t, map[string]any{impersonationKey: id})
				}
				out, err := service.CreateCertificate(bearing(t, token), in)
				if err != nil {
					t.Fatal(err)
				}
				key, err := encodePrivateKey(private)
				if err != nil {
					t.Fatal(err)
				}
				expect(id, []byte(strings.Join(out.CertChain[:len(out.CertChain)-1], "")), key)
			}
			secret := newSecret(t, a, sleep, now)
			expect(sleepID, secret.Data[mesh.CertChain], secret.Data[mesh.CertKey])
		})
	}
}

// FuzzHandleCSR is FuzzCreateCertificate for the older service.
func FuzzHandleCSR(f *testing.F) {
	a, _ := open(f, time.Now(), Options{})
	service := NewService(a, asSleep, ServiceOptions{}).Legacy()
	f.Add([]byte(csrFor(f, sleepID)), []byte("credential"), "onprem", int32(60))
	f.Add([]byte(csr(f, rsa2048(), x509.CertificateRequest{})), []byte(nil), "", int32(math.MaxInt32))
	f.Add([]byte(csrFor(f, httpbinID)), []byte(nil), "", int32(math.MinInt32))
	f.Fuzz(func(t *testing.T, text, credential []byte, kind string, minutes int32) {
		out, err := service.HandleCSR(bearing(t, token), &legacycsr.CsrRequest{
			CsrPem: text, NodeAgentCredential: credential, CredentialType: kind, RequestedTtlMinutes: minutes,
		})
		if err != nil {
			if codeOf(err) != codes.InvalidArgument {
				t.Error(err)
			}
			return
		}
		leaf := parseLeaf(t, string(out.SignedCert))
		expectLeaf(t, leaf, string(a.Bundle()), sleepID, nil, time.Now())
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life <= skew || life > DefaultMaxTTL+skew || !out.IsApproved {
			t.Errorf("lives %v", life)
		}
	})
}
