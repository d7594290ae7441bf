package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// process is what all parts are made from.
type process struct {
	api      *cluster.API
	settings settings
	record   *record
	log      *slog.Logger
	metrics  *prometheus.Registry
}

// parts is all that runs in the process.
func (p process) parts(ctx context.Context) (serve.Parts, error) {
	s := p.settings
	authority, err := openAuthority(ctx, p.api, s)
	if err != nil {
		return nil, err
	}
	service := ca.NewService(authority, authenticator(p.api.Tokens(s.audience, 0)),
		ca.ServiceOptions{Log: p.log, Metrics: ca.NewMetrics(p.metrics, authority), Gate: s.newGate(p.metrics)})
	serving, door := new(serve.Certificate), s.newDoor(p.metrics)
	return serve.Parts{
		"grpc": serve.GRPC{Addr: s.listen, Server: newServer(door, serving, service), Door: door}.Run,
		"admin": serve.Admin{Addr: s.admin, Metrics: p.metrics, Profile: s.profile, Ready: map[string]func() error{
			"serving":      serving.Ready,
			"authority":    func() error { return authority.Ready(time.Now()) },
			"issuance log": p.record.Ready,
		}}.Run,
		"issuance log": p.record.Run,
		"checkpoints":  p.api.KeepPublished(p.record.publication),
		"leader":       lead(p.api, authority, s, p.log, p.metrics),
		"serving certificate": p.api.WatchSecret(s.namespace, mesh.WorkloadSecret(mesh.ServerAccount(mesh.CitadelService)),
			setServing(serving, authority, p.log)),
		"CA Secret": p.api.WatchSecret(s.namespace, mesh.CASecret, replaceAuthority(authority, p.log)),
	}, nil
}
