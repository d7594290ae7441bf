package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// certificate returns a self-signed certificate in PEM, a new one each time.
func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func webhook(entries ...admissionv1.MutatingWebhook) *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{
			Name:   mesh.InjectorWebhook,
			Labels: map[string]string{mesh.RevisionLabel: mesh.DefaultRevision, mesh.ManagedByLabel: mesh.ManagedBy},
		},
		Webhooks: entries,
	}
}

func entry(name string, bundle []byte) admissionv1.MutatingWebhook {
	none, ignore := admissionv1.SideEffectClassNone, admissionv1.Ignore
	return admissionv1.MutatingWebhook{
		Name: name, SideEffects: &none, FailurePolicy: &ignore, AdmissionReviewVersions: []string{"v1"},
		ClientConfig: admissionv1.WebhookClientConfig{
			CABundle: bundle,
			Service:  &admissionv1.ServiceReference{Namespace: "nowhere", Name: "nothing"},
		},
	}
}

var webhookResource = admissionv1.SchemeGroupVersion.WithResource("mutatingwebhookconfigurations")

const (
	ours1   = "namespace." + mesh.InjectorWebhookSuffix
	ours2   = "object." + mesh.InjectorWebhookSuffix
	foreign = "other.example.com"
)

func testCABundle(t *testing.T, l lab) {
	api := l.as(t,
		allow("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "list watch"),
		allow("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "patch", mesh.InjectorWebhook))
	webhooks := l.admin.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	var bundle atomic.Pointer[[]byte]
	set := func() []byte { b := certificate(t); bundle.Store(&b); return b }
	changed := make(chan struct{})
	metrics := prometheus.NewRegistry()
	keeper := CABundleKeeper{
		Bundle: func() []byte {
			if b := bundle.Load(); b != nil {
				return *b
			}
			return nil
		},
		Changed: changed, Log: logger(t), Metrics: metrics,
	}
	stop := run(t, api.KeepCABundle(keeper))
	bundles := func() (map[string][]byte, error) {
		found, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		got := map[string][]byte{}
		for _, entry := range found.Webhooks {
			got[entry.Name] = entry.ClientConfig.CABundle
		}
		return got, nil
	}
	wants := func(want map[string][]byte) {
		t.Helper()
		within(t, func() error {
			got, err := bundles()
			if diff := cmp.Diff(want, got); err == nil && diff != "" {
				err = errors.New("caBundles (-want +got): " + diff)
			}
			return err
		})
	}

	first := set()
	changed <- struct{}{}
	holdsFor(t, time.Second, func() error {
		if _, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("object: got %w, want not found", err)
		}
		return nil
	})

	theirs := certificate(t)
	if _, err := webhooks.Create(t.Context(), webhook(entry(ours1, nil), entry(foreign, theirs), entry(ours2, theirs)),
		metav1.CreateOptions{FieldManager: "installer"}); err != nil {
		t.Fatal(err)
	}
	wants(map[string][]byte{ours1: first, foreign: theirs, ours2: first})

	t.Run("equal is left alone", func(t *testing.T) {
		found, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found.Webhooks[0].ClientConfig.CABundle = slices.Concat([]byte("# same\n"), first)
		found, err = webhooks.Update(t.Context(), found, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		holdsFor(t, 2*time.Second, func() error {
			now, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
			if err == nil && now.ResourceVersion != found.ResourceVersion {
				err = errors.New("written for nothing")
			}
			return err
		})
	})

	t.Run("changed bundle", func(t *testing.T) {
		first = set()
		changed <- struct{}{}
		wants(map[string][]byte{ours1: first, foreign: theirs, ours2: first})
	})

	t.Run("only the field is owned", func(t *testing.T) {
		found, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		managers := map[string]string{}
		for _, m := range found.ManagedFields {
			managers[m.Manager] = m.FieldsV1.GetRawString()
		}
		field := `{".":{},"f:clientConfig":{"f:caBundle":{}},"f:name":{}}`
		want := `{"f:webhooks":{"k:{\"name\":\"` + ours1 + `\"}":` + field + `,"k:{\"name\":\"` + ours2 + `\"}":` + field + `}}`
		if got := managers[mesh.InjectorFieldManager]; got != want {
			t.Errorf("owned by us: %s", got)
		}
		if managers["installer"] == "" {
			t.Error("the installer owns nothing any more")
		}
		if got := found.Webhooks[0].ClientConfig.Service; got == nil || got.Name != "nothing" {
			t.Errorf("service changed: %v", got)
		}
	})

	t.Run("overwritten", func(t *testing.T) {
		found, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found.Webhooks[0].ClientConfig.CABundle = theirs
		found.Webhooks[2].ClientConfig.CABundle = nil
		if _, err := webhooks.Update(t.Context(), found, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		wants(map[string][]byte{ours1: first, foreign: theirs, ours2: first})
	})

	t.Run("entry taken out", func(t *testing.T) {
		found, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		found.Webhooks = slices.Delete(found.Webhooks, 0, 1)
		found.Webhooks[1].ClientConfig.CABundle = nil
		if _, err := webhooks.Update(t.Context(), found, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		wants(map[string][]byte{foreign: theirs, ours2: first})
	})

	t.Run("stale view", func(t *testing.T) {
		// What a keeper would send that has not heard that an entry, or all, is gone.
		seen, err := webhooks.Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen.Webhooks = append(seen.Webhooks, entry(ours1, nil))
		seen.ResourceVersion = "1"
		apply := func() error {
			_, err := api.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Apply(t.Context(),
				bundleOnly(seen, mesh.InjectorWebhookSuffix, first),
				metav1.ApplyOptions{FieldManager: mesh.InjectorFieldManager, Force: true})
			return err
		}
		if err := apply(); !apierrors.IsConflict(err) {
			t.Errorf("entry gone: %v, want a conflict", err)
		}
		stop()
		if err := webhooks.Delete(t.Context(), mesh.InjectorWebhook, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := apply(); !apierrors.IsConflict(err) {
			t.Errorf("object gone: %v, want a conflict", err)
		}
		if _, err := webhooks.Create(t.Context(), webhook(entry(ours2, theirs)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := apply(); !apierrors.IsConflict(err) {
			t.Errorf("object made anew: %v, want a conflict", err)
		}
	})

	t.Run("second term", func(t *testing.T) {
		again := make(chan struct{})
		keeper.Changed = again
		run(t, api.KeepCABundle(keeper))
		wants(map[string][]byte{ours2: first})
		if n, err := testutil.GatherAndCount(metrics, "injector_webhook_ca_bundle_applied_total"); n != 1 || err != nil {
			t.Errorf("%d series, %v", n, err)
		}
	})
}

func TestBundleOnly(t *testing.T) {
	mine := certificate(t)
	w := webhook(entry(ours1, mine), entry(ours2, []byte("junk")), entry(foreign, nil))
	w.UID, w.ResourceVersion = types.UID("u"), "7"
	before := w.DeepCopy()
	apply := bundleOnly(w, mesh.InjectorWebhookSuffix, mine)
	if len(apply.Webhooks) != 2 || *apply.UID != "u" || *apply.ResourceVersion != "7" {
		t.Errorf("apply: %+v", apply)
	}
	if !cmp.Equal(before, w) {
		t.Error("the object was changed")
	}
}

// TestKeepCABundle holds that a patch that fails is tried until it succeeds, that
// what the cache holds stays as it was, and that the metrics tell of it.
func TestKeepCABundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newAuthority(t, time.Now().Add(time.Hour))
		served := issue(t, root, x509.Certificate{NotAfter: time.Now().Add(time.Minute), DNSNames: []string{"nothing.nowhere.svc"}}).pem
		theirs := newAuthority(t, time.Now().Add(2*time.Hour))
		stored := webhook(entry(ours1, theirs.pem), entry(foreign, theirs.pem))
		client := fake.NewClientset(stored)
		patches, broken := 0, 6
		client.PrependReactor("patch", "mutatingwebhookconfigurations", func(clienttesting.Action) (bool, runtime.Object, error) {
			if patches++; patches <= broken {
				return true, nil, apierrors.NewInternalError(errors.New("no leader"))
			}
			now := stored.DeepCopy()
			now.Webhooks[0].ClientConfig.CABundle = root.pem
			return true, now, client.Tracker().Update(webhookResource, now, "")
		})
		metrics := prometheus.NewRegistry()
		b, err := newBundleLoop(&API{Client: client}, CABundleKeeper{
			Bundle: func() []byte { return root.pem }, Served: func() []byte { return served }, Metrics: metrics, Log: logger(t),
		})
		if err != nil {
			t.Fatal(err)
		}
		expect := func(differing, untrusting float64, notAfter time.Time) {
			t.Helper()
			got := []float64{testutil.ToFloat64(b.differ), testutil.ToFloat64(b.untrust), testutil.ToFloat64(b.notAfter)}
			if want := []float64{differing, untrusting, float64(notAfter.Unix())}; !slices.Equal(got, want) {
				t.Errorf("%d mismatches, %v distrust, first ends %v; want %v", patches, got[1], got[2], want)
			}
		}
		stop := run(t, func(ctx context.Context) error {
			defer b.silence()
			return b.run(ctx)
		})
		later(200 * time.Millisecond)
		cached, err := find[admissionv1.MutatingWebhookConfiguration](b.webhooks, key{Name: stored.Name})
		if err != nil || cached == nil {
			t.Fatal(err)
		}
		before := cached.DeepCopy()
		expect(1, 1, theirs.cert.NotAfter)
		later(30 * time.Second)
		if patches != broken+1 || !cmp.Equal(before, cached) {
			t.Errorf("%d patches, want %d; changed in the cache: %s", patches, broken+1, cmp.Diff(before, cached))
		}
		expect(0, 0, root.cert.NotAfter)
		later(time.Minute) // what is served ends
		expect(0, 1, root.cert.NotAfter)
		stop()
		expect(0, 0, time.Unix(0, 0))
	})
}

// An object that may not be patched keeps no other waiting, and is put right once
// it may be.
func testCABundleTags(t *testing.T, l lab) {
	const group, resource = "admissionregistration.k8s.io", "mutatingwebhookconfigurations"
	api := l.as(t, allow(group, resource, "list watch"), allow(group, resource, "patch", "a-allowed"))
	webhooks := l.admin.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	object := func(name string, labels map[string]string) *admissionv1.MutatingWebhookConfiguration {
		w := webhook(entry(ours1, nil))
		w.Name, w.Labels = name, labels
		return w
	}
	ofRevision := map[string]string{mesh.RevisionLabel: "canary", mesh.ManagedByLabel: mesh.ManagedBy}
	bundle := certificate(t)
	for _, w := range []*admissionv1.MutatingWebhookConfiguration{
		object("a-allowed", ofRevision), object("a-tag", ofRevision),
		object("a-stranger", map[string]string{mesh.RevisionLabel: "canary"}),
		object("a-default", map[string]string{mesh.RevisionLabel: mesh.DefaultRevision, mesh.ManagedByLabel: mesh.ManagedBy}),
	} {
		if _, err := webhooks.Create(t.Context(), w, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = webhooks.Delete(context.Background(), w.Name, metav1.DeleteOptions{}) })
	}
	metrics := prometheus.NewRegistry()
	run(t, api.KeepCABundle(CABundleKeeper{Revision: "canary", Bundle: func() []byte { return bundle }, Log: logger(t), Metrics: metrics}))
	expect := func(want string) {
		t.Helper()
		within(t, func() error {
			list, err := webhooks.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			var kept []string
			for _, w := range list.Items {
				if bytes.Equal(w.Webhooks[0].ClientConfig.CABundle, bundle) {
					kept = append(kept, w.Name)
				}
			}
			if got := strings.Join(kept, " "); got != want {
				return fmt.Errorf("kept %q, want %q", got, want)
			}
			return nil
		})
	}
	expect("a-allowed")
	within(t, func() error {
		return testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP injector_webhook_ca_bundle_mismatches Webhook entries whose caBundle was not the one that the API server needs, when the leader last looked.
# TYPE injector_webhook_ca_bundle_mismatches gauge
injector_webhook_ca_bundle_mismatches 1
`), "injector_webhook_ca_bundle_mismatches")
	})
	l.also(t, allow(group, resource, "patch", "a-tag"))
	expect("a-allowed a-tag")
}
