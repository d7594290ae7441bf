package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	securityapi "istio.io/api/security/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// newAuthority returns one over a fresh root, with the root's Secret.
func newAuthority(t *testing.T) (*ca.Authority, *corev1.Secret) {
	t.Helper()
	secret, err := ca.NewRoot(ca.RootOptions{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Open(secret, ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return authority, secret
}

// The server cuts off what is larger than any request can be, before a token is
// looked at, and presents a certificate as soon as there is one.
func TestServerLimits(t *testing.T) {
	authority, _ := newAuthority(t)
	own, err := authority.NewSecret(mesh.ServiceAccount{
		Namespace: mesh.SystemNamespace, Name: mesh.ServerAccount(mesh.CitadelService), UID: "1",
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	service := ca.NewService(authority, func(context.Context, string) (ca.Caller, error) {
		asked++
		return ca.Caller{}, ca.ErrUnauthenticated
	}, ca.ServiceOptions{})
	serving := new(serve.Certificate)
	server := newServer(serve.NewDoor(serve.DoorOptions{}), serving, authority, service)
	listener := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Bundle())
	conn, err := grpc.NewClient("passthrough:///citadel",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{ServerName: "istio-citadel.istio-system.svc", RootCAs: roots})))
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
	client := securityapi.NewIstioCertificateServiceClient(conn)
	call := func(token, csr string) error {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
		_, err := client.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csr}, grpc.WaitForReady(serving.Leaf() != nil))
		return err
	}
	if err := call("x", ""); status.Code(err) != codes.Unavailable {
		t.Errorf("without a certificate: %v", err)
	}
	take := setServing(serving, authority, slog.New(slog.DiscardHandler))
	stranger, _ := newAuthority(t)
	forged, err := stranger.NewSecret(mesh.ServiceAccount{
		Namespace: mesh.SystemNamespace, Name: mesh.ServerAccount(mesh.CitadelService), UID: "1",
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	forged.Data[mesh.CertRoot] = authority.Bundle()
	if take(forged); serving.Leaf() != nil {
		t.Error("took a certificate that another authority signed")
	}
	take(own)
	if err := call("x", ""); status.Code(err) != codes.Unauthenticated || asked != 1 {
		t.Errorf("with a certificate: %v", err)
	}
	if err := call("x", strings.Repeat("x", 64<<10)); status.Code(err) != codes.ResourceExhausted || asked != 1 {
		t.Errorf("large message: %v", err)
	}
	if err := call(strings.Repeat("x", 40<<10), ""); err == nil || asked != 1 {
		t.Errorf("large header: %v", err)
	}
}

// Others may own the Secret of the serving certificate beside the account, and come last;
// the leader leaves them there, so that a server which minded them would never be ready.
func TestServingCertificateOfManyOwners(t *testing.T) {
	authority, _ := newAuthority(t)
	own, err := authority.NewSecret(mesh.ServiceAccount{
		Namespace: mesh.SystemNamespace, Name: mesh.ServerAccount(mesh.CitadelService), UID: "1",
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	own.OwnerReferences = append(own.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "2"})
	serving := new(serve.Certificate)
	setServing(serving, authority, slog.New(slog.DiscardHandler))(own)
	if err := serving.Ready(); err != nil {
		t.Error(err)
	}
}
