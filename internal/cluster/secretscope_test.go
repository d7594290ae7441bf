package cluster

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// shop is a namespace with one account, as the watches of a fake cluster show them.
func shop(t *testing.T) *API {
	return fakeCluster(t,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}},
		&metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "u1"},
		})
}

// lapse lets time pass in a bubble, and all that then happens happen.
func lapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func readSecret(t *testing.T, api *API) *corev1.Secret {
	t.Helper()
	s, err := api.Client.CoreV1().Secrets("shop").Get(t.Context(), "istio.cart", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.DeepCopy()
}

// reads counts how often single Secrets are read.
func reads(api *API) *atomic.Int64 {
	var n atomic.Int64
	api.bulk.(*fake.Clientset).PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		n.Add(1)
		return false, nil, nil
	})
	return &n
}

// A word has every Secret looked at at once: written anew where the roots are others,
// read where only the chain is.
func TestSecretsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		k := keeper(t)
		k.Log = nil
		var basis atomic.Pointer[Basis]
		basis.Store(&Basis{Roots: "roots 1"})
		again := make(chan struct{})
		k.Basis, k.Again = func(mesh.ServiceAccount) Basis { return *basis.Load() }, again
		read := reads(api)
		stop := run(t, api.KeepSecrets(k))
		lapse(time.Second)
		first := readSecret(t, api)
		read.Store(0)
		basis.Store(&Basis{Roots: "roots 1", Chain: "chain 2"})
		again <- struct{}{}
		lapse(time.Second)
		if second := readSecret(t, api); second.ResourceVersion != first.ResourceVersion || read.Load() != 2 { // ours among them
			t.Errorf("another chain: version %s after %s, %d reads", second.ResourceVersion, first.ResourceVersion, read.Load())
		}
		basis.Store(&Basis{Roots: "roots 2", Chain: "chain 2"})
		again <- struct{}{}
		lapse(time.Second)
		if third := readSecret(t, api); third.ResourceVersion == first.ResourceVersion || read.Load() != 3 {
			t.Errorf("other roots: version %s, %d reads", third.ResourceVersion, read.Load())
		}
		stop()
	})
}

// An account that is barred loses its Secret at once, gets no other however often it is
// looked at, and gets one again as soon as it is barred no more.
func TestSecretsBarred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		k := keeper(t)
		k.Log = nil
		made := 0
		mk := k.Make
		k.Make = func(a mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) { made++; return mk(a, now) }
		var barred atomic.Bool
		again := make(chan struct{})
		k.Basis = func(mesh.ServiceAccount) Basis { return Basis{Roots: "roots 1", Barred: barred.Load()} }
		k.Again = again
		stop := run(t, api.KeepSecrets(k))
		lapse(time.Second)
		readSecret(t, api)
		barred.Store(true)
		again <- struct{}{}
		lapse(time.Second)
		_, err := api.Client.CoreV1().Secrets("shop").Get(t.Context(), "istio.cart", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Fatalf("a second later: %v", err)
		}
		lapse(time.Hour)
		if made != 1 {
			t.Errorf("made %d Secrets, want the first alone", made)
		}
		if got := livesOf(t, k); got.accountDeleted != 0 {
			t.Errorf("%+v: the account is there", got)
		}
		barred.Store(false)
		again <- struct{}{}
		lapse(time.Second)
		readSecret(t, api)
		stop()
	})
}

// Secrets that a new leader finds, and whose annotations tell no ill, are read in pages
// and not one by one; one that lies is found out by that, however good it looks.
func TestScrub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		k := keeper(t)
		k.Log = nil
		stop := run(t, api.KeepSecrets(k))
		lapse(time.Second)
		stop()
		secret := readSecret(t, api)
		good := string(secret.Data[certKey])

		read := reads(api)
		stop = run(t, api.KeepSecrets(k)) // the next leader
		lapse(time.Minute)
		if n := read.Load(); n != 0 {
			t.Errorf("%d reads of a Secret that the scrub has read", n)
		}
		stop()

		secret.Data[certKey] = []byte("mine") // while nobody leads, and nobody's watch shows it
		if err := api.Client.(*fake.Clientset).Tracker().Update(secretResource, secret, "shop"); err != nil {
			t.Fatal(err)
		}
		stop = run(t, api.KeepSecrets(k))
		lapse(time.Minute)
		healed := readSecret(t, api)
		if got := string(healed.Data[certKey]); got == "mine" || got == good {
			t.Errorf("after the first scrub of a leader: %q", got)
		}
		spoilt := healed.DeepCopy()
		spoilt.Data[certKey] = []byte("mine again")
		if err := api.Client.(*fake.Clientset).Tracker().Update(secretResource, spoilt, "shop"); err != nil {
			t.Fatal(err)
		}
		lapse(2 * DefaultScrubInterval)
		if got := string(readSecret(t, api).Data[certKey]); got == "mine again" {
			t.Error("not found in passing later")
		}
		stop()
		const spoiltTotal = "citadel_workload_secrets_spoilt_total"
		if err := testutil.GatherAndCompare(k.Metrics.(prometheus.Gatherer), strings.NewReader(fmt.Sprintf(
			"# HELP %[1]s Secrets of service accounts that were found spoilt by their content.\n# TYPE %[1]s counter\n%[1]s 2\n", spoiltTotal)), spoiltTotal); err != nil {
			t.Error(err)
		}
	})
}

// A list whose place the API server has forgotten goes on where it says.
func TestScrubGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		k := keeper(t)
		k.Log = nil
		stop := run(t, api.KeepSecrets(k))
		lapse(time.Second)
		stop()
		known := *readSecret(t, api)
		var asked []string
		api.bulk.(*fake.Clientset).PrependReactor("list", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
			more := a.(clienttesting.ListActionImpl).ListOptions.Continue
			asked = append(asked, more)
			switch more {
			case "":
				return true, &corev1.SecretList{ListMeta: metav1.ListMeta{Continue: "page 2"}, Items: []corev1.Secret{known}}, nil
			case "page 2":
				err := apierrors.NewResourceExpired("too old")
				err.ErrStatus.Continue = "page 2, as it is now"
				return true, nil, err
			}
			return true, &corev1.SecretList{}, nil
		})
		stop = run(t, api.KeepSecrets(k))
		lapse(time.Minute)
		stop()
		if got := strings.Join(asked, "|"); got != "|page 2|page 2, as it is now" {
			t.Errorf("asked for %q", got)
		}
	})
}

func testUsedAccounts(t *testing.T, l lab) {
	api := l.as(t,
		allow("", "namespaces", "list watch"),
		allow("", "serviceaccounts", "get list watch"),
		allow("", "secrets", "get list watch create patch delete"),
		allow("", "pods", "list watch"),
		allow("", "events", "create"))
	l.namespace(t, "used", map[string]string{mesh.InjectionLabel: "enabled"})
	k := keeper(t)
	k.Used, k.Labels = true, true
	k.InScope = func(ns *corev1.Namespace, a Account) bool { return ns.Name == "used" && a.Used && a.Labels["no"] == "" }
	run(t, api.KeepSecrets(k))
	core := l.admin.Client.CoreV1()
	for _, name := range []string{"busy", "idle", "done"} {
		l.account(t, "used", name)
	}
	// From the start, as the watch of accounts may be behind that of pods.
	labelled := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "labelled", Labels: map[string]string{"no": "thanks"}}}
	if _, err := core.ServiceAccounts("used").Create(t.Context(), labelled, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := func(account string) *corev1.Pod {
		p, err := core.Pods("used").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: account},
			Spec: corev1.PodSpec{
				ServiceAccountName: account, AutomountServiceAccountToken: new(false),
				Containers: []corev1.Container{{Name: "c", Image: "i"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	done := pod("done")
	done.Status.Phase = corev1.PodSucceeded
	has := func(account string) error {
		_, err := core.Secrets("used").Get(t.Context(), "istio."+account, metav1.GetOptions{})
		return err
	}
	within(t, func() error { return has("done") })
	if _, err := core.Pods("used").UpdateStatus(t.Context(), done, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := core.Secrets("used").Delete(t.Context(), "istio.done", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	pod("labelled")
	pod("busy")
	within(t, func() error { return has("busy") })
	holdsFor(t, time.Second, func() error {
		for _, account := range []string{"idle", "labelled"} {
			if err := has(account); !apierrors.IsNotFound(err) {
				return fmt.Errorf("account %s: got %w, want not found", account, err)
			}
		}
		return nil
	})
}

// Where RBAC grants single namespaces, Secrets of others are neither watched nor
// written, and nothing hangs for want of them.
func testOwnNamespaces(t *testing.T, l lab) {
	api := l.as(t, allow("", "namespaces", "list watch"), allow("", "serviceaccounts", "get list watch"), allow("", "events", "create"))
	in := map[string]string{mesh.InjectionLabel: "enabled"}
	for _, ns := range []string{"granted", "granted-too", "not-granted"} {
		l.namespace(t, ns, in)
		l.account(t, ns, "cart")
	}
	l.bind(t, "granted", allow("", "secrets", "get list watch create patch delete"))
	l.bind(t, "granted-too", allow("", "secrets", "get list watch create patch delete"))
	k := keeper(t)
	k.Namespaces = []string{"granted", "granted-too"}
	run(t, api.KeepSecrets(k))
	core := l.admin.Client.CoreV1()
	for _, ns := range k.Namespaces {
		within(t, func() error {
			_, err := core.Secrets(ns).Get(t.Context(), "istio.cart", metav1.GetOptions{})
			return err
		})
		secret, err := core.Secrets(ns).Get(t.Context(), "istio.cart", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secret.Data = nil
		if _, err := core.Secrets(ns).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		within(t, func() error {
			secret, err := core.Secrets(ns).Get(t.Context(), "istio.cart", metav1.GetOptions{})
			if err == nil && len(secret.Data) == 0 {
				err = errors.New("still empty")
			}
			return err
		})
	}
	if _, err := core.Secrets("not-granted").Get(t.Context(), "istio.cart", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("elsewhere: %v", err)
	}
}
