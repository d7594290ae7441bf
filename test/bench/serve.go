package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/serve"
)

// Names of what this program serves to be measured, each in a process of its own.
const (
	roleDecode   = "floor-decode"
	roleTyped    = "floor-typed"
	roleInjector = "injector"
	roleFloorCA  = "floor-ca"
	roleCitadel  = "citadel"
	roleReviewed = "citadel-reviewed" // the same, but KUBECONFIG's API server is asked about tokens
)

// greeting is what a server process says on its standard output before it serves.
type greeting struct {
	Addr string // where it is about to listen
	Root string // PEM of its own certificate, for clients to trust
}

// serveRole serves one role until ctx ends. Every role has the same TLS and the same
// process skeleton, the one of the real servers.
func serveRole(ctx context.Context, role string, out io.Writer, log *slog.Logger) error {
	part, err := rolePart(role, log)
	if err != nil {
		return err
	}
	cert, rootPEM, err := newServingCertificate(time.Now())
	if err != nil {
		return err
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(greeting{Addr: addr, Root: rootPEM}); err != nil {
		return err
	}
	return part(ctx, addr, cert)
}

// part serves on an address with a certificate.
type part func(ctx context.Context, addr string, cert *serve.Certificate) error

func rolePart(role string, log *slog.Logger) (part, error) {
	switch role {
	case roleDecode:
		return overHTTPS(floorWebhook(false)), nil
	case roleTyped:
		return overHTTPS(floorWebhook(true)), nil
	case roleInjector:
		h, err := injectorHandler(log)
		if err != nil {
			return nil, err
		}
		return overHTTPS(h), nil
	case roleFloorCA:
		service, err := newFloorCA(time.Now())
		if err != nil {
			return nil, err
		}
		return overGRPC(nil, service), nil
	case roleCitadel, roleReviewed:
		auth := anybody
		if role == roleReviewed {
			reviewer, err := newReviewer(os.Getenv("KUBECONFIG"))
			if err != nil {
				return nil, err
			}
			auth = reviewer
		}
		service, err := newCitadel(log, auth, time.Now())
		if err != nil {
			return nil, err
		}
		return overGRPC(serve.NewDoor(serve.DoorOptions{}), service), nil
	}
	return nil, fmt.Errorf("nothing to serve by the name of %q", role)
}

func overHTTPS(h http.Handler) part {
	return func(ctx context.Context, addr string, cert *serve.Certificate) error {
		return serve.HTTP{Addr: addr, Handler: h, TLS: cert.TLS("http/1.1"), Linger: -1}.Run(ctx)
	}
}

func overGRPC(door *serve.Door, service securityapi.IstioCertificateServiceServer) part {
	return func(ctx context.Context, addr string, cert *serve.Certificate) error {
		tls := credentials.NewTLS(cert.TLS("h2"))
		options := []grpc.ServerOption{grpc.Creds(tls)}
		if door != nil {
			options = door.Options(tls)
		}
		s := grpc.NewServer(options...)
		securityapi.RegisterIstioCertificateServiceServer(s, service)
		return serve.GRPC{Addr: addr, Server: s, Door: door, Linger: -1}.Run(ctx)
	}
}

// profiled runs f and writes its CPU profile to a file, unless that has no name.
func profiled(path string, f func() error) (err error) {
	if path == "" {
		return f()
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := file.Close(); err == nil {
			err = e
		}
	}()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}

// newServingCertificate makes a certificate for loopback.
func newServingCertificate(now time.Time) (cert *serve.Certificate, rootPEM string, err error) {
	rootPEM, keyPEM, err := newPair(now)
	if err != nil {
		return nil, "", err
	}
	cert = new(serve.Certificate)
	err = cert.Set([]byte(rootPEM), []byte(keyPEM), now)
	return cert, rootPEM, err
}

// newPair makes a P-256 certificate that signs itself, for loopback and the names
// given, and its key, both in PEM.
func newPair(now time.Time, names ...string) (certPEM, keyPEM string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		DNSNames:    names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	return certificatePEM(der), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), nil
}

// freeAddr returns a loopback address that nobody listens on at the moment.
func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
