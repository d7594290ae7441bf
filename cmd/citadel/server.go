package main

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	securityapi "istio.io/api/security/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/api/legacycsr"
	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// setServing puts the certificate that this server itself is issued to use. One that
// clients would not accept is left alone; the leader will have it repaired.
func setServing(serving *serve.Certificate, authority *ca.Authority, log *slog.Logger) func(*corev1.Secret) {
	return func(secret *corev1.Secret) {
		if secret == nil {
			log.Warn("serving certificate is not there")
			return
		}
		self := mesh.ServiceAccount{Namespace: secret.Namespace, Name: mesh.ServerAccount(mesh.CitadelService)}
		err := authority.CheckServing(self, secret, time.Now())
		if err == nil {
			err = serving.Set(secret.Data[mesh.CertChain], secret.Data[mesh.CertKey], time.Now())
		}
		if err != nil {
			log.Error("serving certificate is unusable; the one before stays", "err", err)
			return
		}
		log.Info("took serving certificate", "expires", serving.Leaf().NotAfter)
	}
}

// authenticator makes the judge of tokens answer in the words of package ca.
func authenticator(tokens *cluster.LocalTokens) ca.Authenticator {
	return func(ctx context.Context, token string) (ca.Caller, error) {
		c, err := tokens.Review(ctx, token)
		if err != nil {
			return ca.Caller{}, inWordsOfCA(err)
		}
		how := ca.ProofReview
		if c.Local {
			how = ca.ProofLocal
		}
		return ca.Caller{
			Account: mesh.ServiceAccount{Namespace: c.Namespace, Name: c.Account, UID: c.UID},
			PodName: c.PodName,
			PodUID:  c.PodUID,
			Node:    c.Node,
			How:     how,
		}, nil
	}
}

// streamWorkers is how many goroutines stand by to serve calls; further ones begin when
// all of them wait for their turn to sign. A call takes 32 KiB of stack, so it is about
// 2 MiB.
const streamWorkers = 64

// newServer limits what a stranger may cost before a token was seen: the largest
// request is a token and a CSR of 16 KiB each.
func newServer(door *serve.Door, serving *serve.Certificate, authority *ca.Authority, service *ca.Service) *grpc.Server {
	server := grpc.NewServer(append(door.Options(credentials.NewTLS(serving.TLSWithClients(authority.ClientRoots, "h2"))),
		grpc.MaxRecvMsgSize(64<<10),
		grpc.MaxHeaderListSize(32<<10),
		grpc.MaxConcurrentStreams(100),
		grpc.NumStreamWorkers(streamWorkers), // whose stacks have grown, where each call would grow its own
		grpc.ReadBufferSize(4<<10),           // of each connection, most of which carry one request
		grpc.WriteBufferSize(4<<10),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     5 * time.Second,  // agents come twice a day, and would keep theirs
			MaxConnectionAge:      30 * time.Minute, // and up to a tenth more or less: clients spread over new replicas
			MaxConnectionAgeGrace: 10 * time.Second,
			Time:                  time.Minute,
			Timeout:               20 * time.Second,
		}),
	)...)
	securityapi.RegisterIstioCertificateServiceServer(server, service)
	legacycsr.RegisterIstioCAServiceServer(server, service.Legacy())
	return server
}
