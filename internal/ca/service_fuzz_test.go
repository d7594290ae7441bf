package ca

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"math"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1alpha1"
)

// FuzzCreateCertificate holds the law of the whole path, real signer included:
// whatever a proven caller sends, it gets a certificate for itself alone, or if it is a
// node proxy for one that runs on its node, or a refusal that is its own fault.
func FuzzCreateCertificate(f *testing.F) {
	a, _ := open(f, time.Now(), Options{})
	service := trusting(a, func(ctx context.Context, token string) (Caller, error) {
		if token == "node" {
			return asZtunnel(ctx, token)
		}
		c, err := asSleep(ctx, token)
		c.Node = "n1" // so that it is refused for who it is
		return c, err
	}, node())
	der := func(csr string) []byte {
		block, err := onlyBlock([]byte(csr))
		if err != nil {
			f.Fatal(err)
		}
		return block.Bytes
	}
	for _, node := range []bool{false, true} {
		f.Add(der(csrFor(f, sleepID)), int64(0), "", node)
		f.Add(der(csrFor(f, httpbinID)), int64(-1), "", node)
		f.Add(der(csrFor(f, httpbinID)), int64(60), httpbinID, node)
		f.Add(der(csrFor(f)), int64(60), sleepID, node)
		f.Add(der(csrFor(f)), int64(60), "spiffe://cluster.local/ns/default/sa/nobody", node)
		f.Add(der(csrFor(f)), int64(60), "spiffe://x,cluster.local/ns/default/sa/httpbin", node)
		f.Add(der(csr(f, rsa2048(), x509.CertificateRequest{DNSNames: []string{"istiod.istio-system.svc"}})), int64(3600), "", node)
		f.Add(der(csr(f, ecdsaKey(f, elliptic.P384()), x509.CertificateRequest{})), int64(math.MaxInt64), "spiffe:///ns/default/sa/x", node)
		f.Add(der(rsaCSR(f, oddBits(65536), math.MaxInt32)), int64(1)<<55, "", node)
	}
	f.Fuzz(func(t *testing.T, request []byte, seconds int64, impersonated string, node bool) {
		credential, id, kind := token, sleepID, byToken
		if node {
			credential, id = "node", ztunnelID
		}
		if impersonated != "" {
			id, kind = impersonated, byNode
		}
		out, err := service.CreateCertificate(bearing(t, credential), &securityapi.IstioCertificateRequest{
			Csr:              inPEM("CERTIFICATE REQUEST", request),
			ValidityDuration: seconds,
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
				impersonationKey: structpb.NewStringValue(impersonated),
			}},
		})
		if err != nil {
			if c := status.Code(err); c != codes.InvalidArgument && c != codes.Unauthenticated {
				t.Errorf("%v", err)
			}
			return
		}
		if impersonated != "" && (!node || id != sleepID && id != httpbinID) {
			t.Errorf("issued for %q", impersonated)
		}
		leaf := expectChain(t, out.CertChain, id, time.Now())
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life <= 2*time.Minute || life > DefaultMaxTTL+2*time.Minute {
			t.Errorf("lives %v", life)
		}
		if from, err := parseOrigin(originIn(leaf)); err != nil || from.kind != kind {
			t.Errorf("origin %+v, %v", from, err)
		}
	})
}
