package ca

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// BenchmarkCreateCertificate is a request without network and token review, beside
// the least that signing can cost: check the CSR, call the standard library.
func BenchmarkCreateCertificate(b *testing.B) {
	a, secret := open(b, time.Now(), Options{})
	text := csrFor(b, sleepID)
	b.Run("service", func(b *testing.B) {
		service := NewService(a, asSleep, ServiceOptions{})
		ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs("authorization", "Bearer "+token))
		request := &securityapi.IstioCertificateRequest{Csr: text}
		for b.Loop() {
			if _, err := service.CreateCertificate(ctx, request); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor", func(b *testing.B) {
		key, err := parsePrivateKey(secret.Data[mesh.CAKeyKey])
		if err != nil {
			b.Fatal(err)
		}
		uris := urls(b, sleepID)
		for b.Loop() {
			block, _ := pem.Decode([]byte(text))
			request, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				b.Fatal(err)
			}
			if err := request.CheckSignature(); err != nil {
				b.Fatal(err)
			}
			serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
			template := &x509.Certificate{
				SerialNumber: serial, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
				URIs: uris, KeyUsage: x509.KeyUsageDigitalSignature,
			}
			der, err := x509.CreateCertificate(rand.Reader, template, a.current.Load().cert, request.PublicKey, key)
			if err != nil {
				b.Fatal(err)
			}
			pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		}
	})
}
