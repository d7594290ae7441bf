package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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

func TestParseBundle(t *testing.T) {
	a, b := certificate(t), certificate(t)
	both, err := parseBundle(slices.Concat(a, b))
	if err != nil || len(both) != 2 {
		t.Fatalf("two certificates: %d, %v", len(both), err)
	}
	for name, same := range map[string][]byte{
		"other order":         slices.Concat(b, a),
		"one twice":           slices.Concat(a, b, a),
		"comments and spaces": slices.Concat([]byte("# roots\n\n"), a, []byte("\n\n"), b, []byte("\n \n")),
	} {
		got, err := parseBundle(same)
		if err != nil || !slices.EqualFunc(got, both, bytes.Equal) {
			t.Errorf("%s: not the same bundle (%v)", name, err)
		}
	}
	for name, bad := range map[string][]byte{
		"empty":     nil,
		"text":      []byte("bundle\n"),
		"trailing":  slices.Concat(a, []byte("bundle\n")),
		"cut":       a[:len(a)-30],
		"key":       pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"not X.509": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
	} {
		if got, err := parseBundle(bad); err == nil {
			t.Errorf("%s: %d certificates", name, len(got))
		}
	}
}

// FuzzParseBundle holds that what parses means the same written out plainly.
func FuzzParseBundle(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, bundle []byte) {
		certificates, err := parseBundle(bundle)
		if err != nil {
			return
		}
		var plain []byte
		for _, der := range certificates {
			plain = append(plain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		again, err := parseBundle(plain)
		if err != nil || !slices.EqualFunc(again, certificates, bytes.Equal) {
			t.Errorf("%q: plain form differs (%v)", bundle, err)
		}
	})
}

func webhook(entries ...admissionv1.MutatingWebhook) *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: mesh.InjectorWebhook}, Webhooks: entries,
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

const (
	ours1   = "namespace." + mesh.InjectorWebhookSuffix
	ours2   = "object." + mesh.InjectorWebhookSuffix
	foreign = "other.example.com"
)

func testCABundle(t *testing.T, l lab) {
	api := l.as(t, allow("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "list watch patch", mesh.InjectorWebhook))
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
		within(t, 5*time.Second, func() error {
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

func TestCompare(t *testing.T) {
	mine := certificate(t)
	want, err := parseBundle(mine)
	if err != nil {
		t.Fatal(err)
	}
	w := webhook(entry(ours1, mine), entry(ours2, []byte("junk")), entry(foreign, nil))
	w.UID, w.ResourceVersion = types.UID("u"), "7"
	differing, found := compare(w, mesh.InjectorWebhookSuffix, want)
	if found != 2 || !slices.Equal(differing, []string{ours2}) {
		t.Errorf("%d found, differing: %v", found, differing)
	}
	apply := bundleOnly(w, mesh.InjectorWebhookSuffix, mine)
	if len(apply.Webhooks) != 2 || *apply.UID != "u" || *apply.ResourceVersion != "7" {
		t.Errorf("apply: %+v", apply)
	}
}
