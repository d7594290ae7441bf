package cluster

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	admissionapply "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	admissioninformers "k8s.io/client-go/informers/admissionregistration/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// CABundleKeeper says which entries of which MutatingWebhookConfiguration get
// which caBundle.
type CABundleKeeper struct {
	Webhook     string // name of the object; "": mesh.InjectorWebhook
	EntrySuffix string // of the names of our entries; "": mesh.InjectorWebhookSuffix

	// Bundle returns the certificates, in PEM, by which the API server should know
	// the webhook, or nothing as long as they are not known. It is asked after each
	// word on Changed, which may be nil, and at least once per Resync.
	Bundle  func() []byte
	Changed <-chan struct{}
	Resync  time.Duration // 0: 15 s

	Log     *slog.Logger          // nil: no log
	Metrics prometheus.Registerer // nil: no metrics
}

// KeepCABundle returns a part for the leader: the entries that exist and whose
// names end in the suffix have the caBundle that Bundle returns, put right by
// server-side apply of that one field whenever it differs, also after somebody
// else wrote it. Neither the object nor an entry is ever created. What does not
// succeed is tried again, for ever, with growing pauses.
func (a *API) KeepCABundle(k CABundleKeeper) func(context.Context) error {
	return func(ctx context.Context) error {
		b, err := newBundleLoop(a, k)
		if err != nil {
			return err
		}
		defer b.differ.Set(0) // from now on the next leader tells
		return b.run(ctx)
	}
}

type bundleLoop struct {
	*loop
	CABundleKeeper
	api      *API
	webhooks cache.Indexer // MutatingWebhookConfiguration of that name
	differ   prometheus.Gauge
	applied  prometheus.Counter
}

func newBundleLoop(a *API, k CABundleKeeper) (*bundleLoop, error) {
	if k.Webhook == "" {
		k.Webhook = mesh.InjectorWebhook
	}
	if k.EntrySuffix == "" {
		k.EntrySuffix = mesh.InjectorWebhookSuffix
	}
	if k.Resync <= 0 {
		k.Resync = 15 * time.Second
	}
	b := &bundleLoop{loop: newLoop(1, k.Log), CABundleKeeper: k, api: a}
	b.sync = b.keep
	var err error
	if b.differ, err = registered(k.Metrics, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "injector_webhook_ca_bundle_mismatches",
		Help: "Webhook entries whose caBundle was not the one that the API server needs, when the leader last looked.",
	})); err != nil {
		return nil, err
	}
	if b.applied, err = registered(k.Metrics, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "injector_webhook_ca_bundle_applied_total",
		Help: "Times that the caBundle of webhook entries was put right.",
	})); err != nil {
		return nil, err
	}
	webhooks := admissioninformers.NewFilteredMutatingWebhookConfigurationInformer(a.Client, 0, cache.Indexers{}, only(k.Webhook))
	b.webhooks = webhooks.GetIndexer()
	return b, b.watch(webhooks, func(any) { b.queue.Add(key{Name: b.Webhook}) })
}

// run is the loop's, with somebody to hear of new bundles.
func (b *bundleLoop) run(ctx context.Context) error {
	heard := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() { // owned here
		defer close(heard)
		b.hear(ctx)
	}()
	err := b.loop.run(ctx)
	cancel()
	<-heard
	return err
}

func (b *bundleLoop) hear(ctx context.Context) {
	changed := b.Changed
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-changed:
			if !open {
				changed = nil
				continue
			}
			b.queue.Add(key{Name: b.Webhook})
		}
	}
}

// keep puts the caBundles right.
func (b *bundleLoop) keep(ctx context.Context, k key) (again time.Duration, err error) {
	again = wait.Jitter(b.Resync*4/5, 0.25)
	bundle := b.Bundle()
	if len(bundle) == 0 {
		return again, nil
	}
	certificates, err := parseBundle(bundle)
	if err != nil {
		return 0, fmt.Errorf("bundle to apply: %w", err)
	}
	webhook, err := find[admissionv1.MutatingWebhookConfiguration](b.webhooks, k)
	if err != nil || webhook == nil {
		b.differ.Set(0)
		return again, err
	}
	differing, found := compare(webhook, b.EntrySuffix, certificates)
	b.differ.Set(float64(len(differing)))
	if found == 0 {
		b.log.WarnContext(ctx, "webhook has no entry of ours", "webhook", k.Name, "suffix", b.EntrySuffix)
	}
	if len(differing) == 0 {
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
	b.differ.Set(0)
	b.applied.Inc()
	b.log.InfoContext(ctx, "applied caBundle", "webhook", k.Name, "entries", differing)
	return again, nil
}

// compare returns the names of our entries whose caBundle holds other certificates,
// and the number of our entries.
func compare(webhook *admissionv1.MutatingWebhookConfiguration, suffix string, want [][]byte) (differing []string, found int) {
	for _, entry := range webhook.Webhooks {
		if !strings.HasSuffix(entry.Name, suffix) {
			continue
		}
		found++
		have, err := parseBundle(entry.ClientConfig.CABundle)
		if err != nil || !slices.EqualFunc(have, want, bytes.Equal) {
			differing = append(differing, entry.Name)
		}
	}
	return differing, found
}

// bundleOnly is the apply configuration that claims the caBundle of each of our
// entries and nothing else. All of them are in it, since an entry left out would be
// an entry given up. UID and resource version make the API server refuse it when
// the object is not the one that was looked at: without them an entry that has just
// been taken out would come back as a stump.
func bundleOnly(webhook *admissionv1.MutatingWebhookConfiguration, suffix string, bundle []byte) *admissionapply.MutatingWebhookConfigurationApplyConfiguration {
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

// parseBundle returns the certificates of a PEM bundle in DER, sorted, each once:
// two bundles with equal certificates make the API server trust the same.
func parseBundle(bundle []byte) ([][]byte, error) {
	var certificates [][]byte
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, errors.New("not PEM throughout")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block of type %q, want CERTIFICATE", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, err
		}
		certificates = append(certificates, block.Bytes)
	}
	if len(certificates) == 0 {
		return nil, errors.New("no certificate")
	}
	slices.SortFunc(certificates, bytes.Compare)
	return slices.CompactFunc(certificates, bytes.Equal), nil
}
