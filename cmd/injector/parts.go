package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// parts is all that runs in the process. It is ready when it has a certificate and knows
// the namespaces, nodes and overlays, without which it could only refuse or would guess.
func parts(c *config, api *cluster.API, log *slog.Logger, metrics *prometheus.Registry) serve.Parts {
	service := inject.Webhook{Revision: c.settings.Revision()}.Service()
	own := newCredentials(service+"."+c.namespace+".svc", log, metrics)
	again := newWord() // to the audit: what it judges by has changed
	namespaces, nodes := api.WatchNamespaces(again.tell, log), api.WatchNodes(log)
	injector := inject.NewInjector(inject.Config{
		Settings: c.settings, Log: log, Metrics: metrics,
		Namespace: namespaces.Get,
		Older:     func() []mesh.Node { return nodes.Older(inject.NativeMinor) },
	})
	overlays := &overlays{injector: injector, changed: again}
	webhooks := &webhooks{revision: c.settings.Revision(), changed: again}
	audit := audit{settings: injector.Settings, namespaces: namespaces, webhooks: webhooks}
	return serve.Parts{
		"webhook":     serve.HTTP{Addr: c.listen, Handler: router(injector, c.limits, log), TLS: own.certificate.TLS("h2", "http/1.1")}.Run,
		"certificate": api.WatchSecret(c.namespace, mesh.WorkloadSecret(mesh.ServerAccount(service)), own.update),
		"namespaces":  namespaces.Run,
		"nodes":       nodes.Run,
		"overlays":    api.WatchConfigMap(c.namespace, mesh.OverlaysConfigMap, overlays.take),
		"leader": func(ctx context.Context) error {
			lease := cluster.Lease{Namespace: c.namespace, Name: leaseOf(c.settings.Revision()), Identity: c.podName, Log: log}
			return api.Lead(ctx, lease, func(ctx context.Context) error {
				return serve.All(ctx, serve.Parts{
					"caBundle": api.KeepCABundle(cluster.CABundleKeeper{
						Revision: c.settings.Revision(), Bundle: own.bundle, Changed: own.changed, Served: own.chain, Log: log, Metrics: metrics,
					}),
					"webhooks": api.WatchWebhooks(webhooks.revision, webhooks.take),
					"audit":    api.AuditPods(cluster.PodAudit{Judge: audit.judge, Again: again, Log: log, Metrics: metrics}),
				})
			})
		},
		"self-test": selfTest(api, c.settings.Revision(), log, metrics),
		"admin": serve.Admin{
			Addr: c.admin, Metrics: metrics, Profile: c.profile,
			Ready: map[string]func() error{
				"certificate": own.certificate.Ready, "namespaces": namespaces.Ready, "nodes": nodes.Ready, "overlays": overlays.ready,
			},
		}.Run,
	}
}

// overlays are those in the ConfigMap.
type overlays struct {
	injector *inject.Injector
	changed  word
	known    atomic.Bool
}

// take offers the overlays to the injector; no ConfigMap means none.
func (o *overlays) take(m *corev1.ConfigMap) {
	var data map[string]string
	if m != nil {
		data = m.Data
	}
	o.injector.SetOverlays(context.Background(), data)
	o.changed.tell()
	o.known.Store(true)
}

// ready reports that the overlays have not been read yet. Wrong ones have: those before
// them are in force, or none.
func (o *overlays) ready() error {
	if !o.known.Load() {
		return errors.New("overlays not read yet")
	}
	return nil
}

// leaseOf keeps revisions from waiting for each other.
func leaseOf(revision string) string {
	if revision == mesh.DefaultRevision {
		return mesh.InjectorLease
	}
	return mesh.InjectorLease + "-" + revision
}
