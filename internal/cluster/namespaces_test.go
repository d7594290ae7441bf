package cluster

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// fakeMetadata is a metadata client that knows these objects.
func fakeMetadata(t *testing.T, objects ...runtime.Object) *metadatafake.FakeMetadataClient {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return metadatafake.NewSimpleMetadataClient(scheme, objects...)
}

func partial(apiVersion, kind string, m metav1.ObjectMeta) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}, ObjectMeta: m}
}

// What the watch shows costs no request; what it does not show costs one.
func TestNamespacesAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fakeMetadata(t, partial("v1", "Namespace", metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"a": "b"}}))
		n := (&API{metadata: client}).WatchNamespaces(func() {}, nil)
		gets := func() (n int) {
			for _, action := range client.Actions() {
				if action.GetVerb() == "get" {
					n++
				}
			}
			return n
		}
		want := mesh.Namespace{Name: "shop", Labels: map[string]string{"a": "b"}}
		expect := func(wantGets int) {
			t.Helper()
			got, err := n.Get(t.Context(), "shop")
			if diff := cmp.Diff(want, got); diff != "" || err != nil || gets() != wantGets {
				t.Errorf("%s%v, after %d requests, want %d", diff, err, gets(), wantGets)
			}
		}
		expect(1)
		if n.Ready() == nil {
			t.Error("ready before it knows them")
		}
		run(t, n.Run)
		synctest.Wait()
		if err := n.Ready(); err != nil {
			t.Error(err)
		}
		expect(1)
		if _, err := n.Get(t.Context(), "absent"); !apierrors.IsNotFound(err) || gets() != 2 {
			t.Errorf("%v, after %d requests", err, gets())
		}
		// The name would be part of a path.
		for _, name := range []string{"", "..", "../pods", "a/b", "Shop", strings.Repeat("a", 64)} {
			if _, err := n.Get(t.Context(), name); err == nil || gets() != 2 {
				t.Errorf("%q: %v, after %d requests", name, err, gets())
			}
		}
	})
}

// What the namespaces say is told when it is known, and when it is something else.
func TestNamespacesTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop := partial("v1", "Namespace", metav1.ObjectMeta{Name: "shop"})
		client := fakeMetadata(t, shop.DeepCopy())
		told := 0
		n := (&API{metadata: client}).WatchNamespaces(func() { told++ }, nil)
		stop := run(t, n.Run)
		later(time.Second)
		if first := told; first < 1 || first > 2 { // that the list is there and what it holds may be told one after the other
			t.Errorf("told %d times of what there is at first", first)
		}
		told = 0
		expect := func(want int) {
			t.Helper()
			later(time.Second)
			if told != want || n.Ready() != nil {
				t.Errorf("told %d times, want %d; %v", told, want, n.Ready())
			}
		}
		expect(0)
		update := func(change func()) {
			t.Helper()
			change()
			if err := client.Tracker().Update(namespaceResource, shop.DeepCopy(), ""); err != nil {
				t.Fatal(err)
			}
		}
		update(func() { shop.Labels = map[string]string{mesh.InjectionLabel: "enabled"} })
		expect(1)
		update(func() { shop.Annotations = map[string]string{"example.com/touched": "now"} })
		expect(1)
		update(func() { shop.Annotations = map[string]string{mesh.ProxyCPU: "1"} })
		expect(2)
		stop()
	})
}

// Whoever calls names the namespace, and must not take all requests for it.
func TestNamespacesAskSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := (&API{metadata: fakeMetadata(t)}).WatchNamespaces(func() {}, nil)
		var asked, refused atomic.Int32
		var callers sync.WaitGroup
		for i := range 1000 {
			callers.Go(func() {
				_, err := n.Get(t.Context(), fmt.Sprint("n", i))
				if apierrors.IsNotFound(err) {
					asked.Add(1)
				} else if err != nil {
					refused.Add(1)
				}
			})
		}
		start := time.Now()
		callers.Wait()
		if most := lookupBurst + lookupQPS*int32(lookupTimeout/time.Second) + 1; asked.Load() > most || asked.Load() < lookupBurst || asked.Load()+refused.Load() != 1000 {
			t.Errorf("%d asked and %d refused, want at most %d asked", asked.Load(), refused.Load(), most)
		}
		if took := time.Since(start); took > lookupTimeout {
			t.Errorf("callers waited %v", took)
		}
	})
}

func TestAnnotationsOf(t *testing.T) {
	got := annotationsOf(map[string]string{
		"sidecar.istio.io/inject": "1", "istio.io/rev": "2", "garrison.io/x": "3", "a.garrison.io/y": "4",
		"notistio.io/z": "5", "kubectl.kubernetes.io/last-applied-configuration": "6", "istio.io": "7", "plain": "8",
	}, "istio.io", "garrison.io")
	want := map[string]string{"sidecar.istio.io/inject": "1", "istio.io/rev": "2", "garrison.io/x": "3", "a.garrison.io/y": "4", "istio.io": "7"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func testNamespaces(t *testing.T, l lab) {
	api := l.as(t, allow("", "namespaces", "get list watch"))
	n := api.WatchNamespaces(func() {}, logger(t))
	run(t, n.Run)
	within(t, n.Ready)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "watched", Labels: map[string]string{"istio-injection": "enabled"},
		Annotations: map[string]string{"sidecar.istio.io/proxyCPU": "1", "example.com/large": "x"},
	}}
	if _, err := l.admin.Client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want := mesh.Namespace{
		Name: "watched", Labels: map[string]string{"istio-injection": "enabled", corev1.LabelMetadataName: "watched"},
		Annotations: map[string]string{"sidecar.istio.io/proxyCPU": "1"},
	}
	// At once, as the admission of a namespace's first pod does.
	var got mesh.Namespace
	within(t, func() (err error) {
		if got, err = n.Get(t.Context(), "watched"); apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err // none within the time that one may take
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	listed := func() *mesh.Namespace {
		for _, ns := range n.List() {
			if ns.Name == "watched" {
				return &ns
			}
		}
		return nil
	}
	within(t, func() error {
		if diff := cmp.Diff(&want, listed()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	if err := l.admin.Client.CoreV1().Namespaces().Delete(t.Context(), "watched", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	l.finalize(t, "watched")
	within(t, func() error {
		if _, err := n.Get(t.Context(), "watched"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleted: %w", err)
		}
		return nil
	})
}
