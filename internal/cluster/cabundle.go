package cluster

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	admissionapply "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// CABundleKeeper says which entries of which MutatingWebhookConfigurations get
// which caBundle.
type CABundleKeeper struct {
	// Revision, "" for mesh.DefaultRevision, selects the objects: those that are
	// labelled with it and as Garrison's. Revision tags are objects of their own.
	Revision    string
	EntrySuffix string // of the names of our entries; "": mesh.InjectorWebhookSuffix

	// Bundle returns the certificates, in PEM, by which the API server should know
	// the webhook, or nothing as long as they are not known. It is asked after each
	// word on Changed, which may be nil, and at least once per Resync, by several
	// workers at a time.
	Bundle  func() []byte
	Changed <-chan struct{}
	Resync  time.Duration // 0: 15 s

	// Served returns the certificate chain that the webhook presents, in PEM, or
	// nothing as long as there is none. What the API server holds is compared with
	// it, for the metrics and the log only. Nil: it is not.
	Served func() []byte

	Log     *slog.Logger          // nil: no log
	Metrics prometheus.Registerer // nil: no metrics
}

// KeepCABundle returns a part for the leader: the entries that exist and whose
// names end in the suffix have the caBundle that Bundle returns, put right by
// server-side apply of that one field whenever it differs, also after somebody
// else wrote it. Neither an object nor an entry is ever created. What does not
// succeed, for want of the right to patch an object perhaps, is tried again, for
// ever, with growing pauses, while the others are kept.
func (a *API) KeepCABundle(k CABundleKeeper) func(context.Context) error {
	return func(ctx context.Context) error {
		b, err := newBundleLoop(a, k)
		if err != nil {
			return err
		}
		defer b.silence() // from now on the next leader tells
		return b.run(ctx)
	}
}

type bundleLoop struct {
	*loop
	CABundleKeeper
	api      *API
	webhooks cache.Indexer // MutatingWebhookConfiguration of that revision
	applied  prometheus.Counter

	mu                        sync.Mutex
	held                      map[string]held // by object
	differ, untrust, notAfter prometheus.Gauge
}

func newBundleLoop(a *API, k CABundleKeeper) (*bundleLoop, error) {
	k.Revision = cmp.Or(k.Revision, mesh.DefaultRevision)
	k.EntrySuffix = cmp.Or(k.EntrySuffix, mesh.InjectorWebhookSuffix)
	if k.Served == nil {
		k.Served = func() []byte { return nil }
	}
	if k.Resync <= 0 {
		k.Resync = 15 * time.Second
	}
	b := &bundleLoop{loop: newLoop(workers, k.Log), CABundleKeeper: k, api: a, held: map[string]held{}}
	b.sync = b.keep
	for _, g := range []struct {
		into *prometheus.Gauge
		opts prometheus.GaugeOpts
	}{
		{&b.differ, prometheus.GaugeOpts{
			Name: "injector_webhook_ca_bundle_mismatches",
			Help: "Webhook entries whose caBundle was not the one that the API server needs, when the leader last looked.",
		}},
		{&b.untrust, prometheus.GaugeOpts{
			Name: "injector_webhook_ca_bundle_untrusting",
			Help: "Webhook entries by whose caBundle the API server does not trust the certificate that is served, when the leader last looked.",
		}},
		{&b.notAfter, prometheus.GaugeOpts{
			Name: "injector_webhook_ca_bundle_not_after_seconds",
			Help: "When the first certificate in the caBundles expires, in seconds since 1970; 0 while there is none.",
		}},
	} {
		var err error
		if *g.into, err = registered(k.Metrics, prometheus.NewGauge(g.opts)); err != nil {
			return nil, err
		}
	}
	var err error
	if b.applied, err = registered(k.Metrics, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "injector_webhook_ca_bundle_applied_total",
		Help: "Times that the caBundle of webhook entries was put right.",
	})); err != nil {
		return nil, err
	}
	webhooks := newWebhookInformer(a.Client, k.Revision)
	b.webhooks = webhooks.GetIndexer()
	b.heed(k.Changed, b.webhooks)
	return b, b.watch(webhooks, b.enqueue)
}

// keep puts the caBundles of one object right.
func (b *bundleLoop) keep(ctx context.Context, k key) (again time.Duration, err error) {
	webhook, err := find[admissionv1.MutatingWebhookConfiguration](b.webhooks, k)
	if err != nil {
		return 0, err
	}
	if webhook == nil {
		b.report(ctx, k, nil)
		return 0, nil
	}
	again = wait.Jitter(b.Resync*4/5, 0.25)
	bundle := b.Bundle()
	var certificates [][]byte
	if len(bundle) > 0 {
		if certificates, err = parseBundle(bundle); err != nil {
			return 0, fmt.Errorf("bundle to apply: %w", err)
		}
	}
	h := look(webhook, b.EntrySuffix, certificates, b.Served(), time.Now())
	b.report(ctx, k, &h)
	if h.entries == 0 {
		b.log.WarnContext(ctx, "webhook has no entry of ours", "webhook", k.Name, "suffix", b.EntrySuffix)
	}
	if len(h.differing) == 0 {
		return again, nil
	}
	if pause := b.pause(k); pause > 0 {
		return pause, nil
	}
	_, err = b.api.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Apply(ctx,
		bundleOnly(webhook, b.EntrySuffix, bundle),
		metav1.ApplyOptions{FieldManager: mesh.InjectorFieldManager, Force: true})
	if err != nil {
		return 0, fmt.Errorf("caBundle: %w", err)
	}
	b.repaired(k)
	b.applied.Inc()
	b.log.InfoContext(ctx, "applied caBundle", "webhook", k.Name, "entries", h.differing)
	return again, nil
}

// report makes known how one object was found, or that it is gone. What makes the
// API server distrust us is logged when it changes.
func (b *bundleLoop) report(ctx context.Context, k key, h *held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h == nil {
		delete(b.held, k.Name)
	} else {
		if h.why != nil && !slices.Equal(b.held[k.Name].untrusting, h.untrusting) {
			b.log.WarnContext(ctx, "API server does not trust what is served", "webhook", k.Name, "entries", h.untrusting, "err", h.why)
		}
		b.held[k.Name] = *h
	}
	var differing, untrusting int
	var first time.Time
	for _, h := range b.held {
		differing += len(h.differing)
		untrusting += len(h.untrusting)
		if first.IsZero() || !h.notAfter.IsZero() && h.notAfter.Before(first) {
			first = h.notAfter
		}
	}
	b.differ.Set(float64(differing))
	b.untrust.Set(float64(untrusting))
	b.notAfter.Set(0)
	if !first.IsZero() {
		b.notAfter.Set(float64(first.Unix()))
	}
}

func (b *bundleLoop) silence() {
	for _, gauge := range []prometheus.Gauge{b.differ, b.untrust, b.notAfter} {
		gauge.Set(0)
	}
}

// bundleOnly is the apply configuration that claims the caBundle of each of our
// entries and nothing else. All of them are in it, since an entry left out would be
// an entry given up. UID and resource version make the API server refuse it when
// the object is not the one that was looked at: without them an entry that has just
// been taken out would come back as a stump.
func bundleOnly(
	webhook *admissionv1.MutatingWebhookConfiguration, suffix string, bundle []byte,
) *admissionapply.MutatingWebhookConfigurationApplyConfiguration {
	apply := admissionapply.MutatingWebhookConfiguration(webhook.Name).
		WithUID(webhook.UID).
		WithResourceVersion(webhook.ResourceVersion)
	for _, entry := range webhook.Webhooks {
		if strings.HasSuffix(entry.Name, suffix) {
			apply.WithWebhooks(admissionapply.MutatingWebhook().
				WithName(entry.Name).
				WithClientConfig(admissionapply.WebhookClientConfig().WithCABundle(bundle...)))
		}
	}
	return apply
}
