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
	revocations := ca.NewRevocations(ca.RevocationsOptions{
		Window: s.revocationWindow,
		Own:    mesh.ServiceAccount{Namespace: s.namespace, Name: mesh.ServerAccount(mesh.CitadelService)},
	})
	s.authority.Recorder, s.authority.Revocations = p.record, revocations
	keys, err := openKeyring(ctx, p.api, s, p.log)
	if err != nil {
		return nil, err
	}
	authority := keys.authority
	if err := refuseOwnAudience(ctx, p.api, s.audiences, p.log); err != nil {
		return nil, err
	}
	tokens, running := p.watchTokens()
	service := ca.NewService(authority, authenticator(tokens), ca.ServiceOptions{
		Log: p.log, Metrics: ca.NewMetrics(p.metrics, authority), Gate: s.newGate(p.metrics),
		Workloads: workloads{running}, StillAlive: workloads{running}.stillAlive, NodeAccounts: s.nodes, PodlessAccounts: s.podless,
	})
	serving, door := new(serve.Certificate), s.newDoor(p.metrics)
	registerProcess(p.metrics, serving, authority, p.record.Ready)
	leader := newLeader(leader{
		api: p.api, authority: authority, tend: keys.tend, warn: keys.newWarner().run, settings: s, log: p.log, metrics: p.metrics,
	})
	keys.then(leader.again)
	return serve.Parts{
		"grpc": func(ctx context.Context) error {
			defer service.Settle() // after the last call, and before the record is closed
			return serve.GRPC{Addr: s.listen, Server: newServer(door, serving, authority, service), Door: door}.Run(ctx)
		},
		"heap":     serve.HeapReserve,
		"refusals": service.Run,
		"admin": serve.Admin{Addr: s.admin, Metrics: p.metrics, Profile: s.profile, Ready: map[string]func() error{
			"serving":      serving.Ready,
			"authority":    func() error { return authority.Ready(time.Now()) },
			"issuance log": p.record.Ready,
			"tokens":       tokens.Ready,
			"revocations":  revocations.Ready,
		}, Notes: func() []string { return append(keys.notices(), revocations.Notices(time.Now())...) }}.Run,
		"issuance log": p.record.Run,
		"checkpoints":  p.api.KeepPublished(p.record.publication),
		"token keys":   tokens.Run,
		"workloads":    running.Run,
		"leader":       leader.run,
		"serving certificate": p.api.WatchSecret(s.namespace, mesh.WorkloadSecret(mesh.ServerAccount(mesh.CitadelService)),
			keys.again(setServing(serving, authority, p.log))),
		"keys": keys.follow,
		"revocations": p.api.FollowConfigMap(cluster.Following{
			Namespace: s.namespace, Name: mesh.RevocationsConfigMap, Log: p.log,
			Every: s.revocationWindow / 6, // several may fail within the window
			Got:   setRevocations(revocations, leader.secrets.tell, p.log), Confirmed: confirmRevocations(revocations, leader.secrets.tell),
		}),
	}, nil
}
