package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// cartAs is the account of the shop with that UID.
func cartAs(uid types.UID) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: uid},
	}
}

// quietly keeps Secrets in a bubble until the test stops it, and counts the keys made.
func quietly(t *testing.T, api *API, change func(*SecretKeeper)) (made *atomic.Int64, stop func()) {
	k := keeper(t)
	k.Log = nil
	made = new(atomic.Int64)
	mk := k.Make
	k.Make = func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) {
		made.Add(1)
		return mk(account, now)
	}
	if change != nil {
		change(&k)
	}
	stop = run(t, api.KeepSecrets(k))
	lapse(time.Second)
	return made, stop
}

// The watch of accounts may be behind that of Secrets: a Secret goes only when the API server
// itself says that its account is gone, or is another one.
func TestSecretsOfAccountsThatSeemGone(t *testing.T) {
	for live, stays := range map[types.UID]bool{"u1": true, "u2": false} {
		synctest.Test(t, func(t *testing.T) {
			api := shop(t)
			_, stop := quietly(t, api, nil)
			readSecret(t, api)
			accounts := api.metadata.(*metadatafake.FakeMetadataClient)
			accounts.PrependReactor("get", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, cartAs(live), nil
			})
			if err := accounts.Tracker().Delete(accountResource, "shop", "cart"); err != nil {
				t.Fatal(err)
			}
			lapse(time.Minute)
			_, err := api.Client.CoreV1().Secrets("shop").Get(t.Context(), "istio.cart", metav1.GetOptions{})
			if stays && err != nil || !stays && !apierrors.IsNotFound(err) {
				t.Errorf("account is %s there: %v", live, err)
			}
			stop()
		})
	}
}

// Nothing is made for an account that is going, nor where Secrets are none of this
// process's business.
func TestSecretsNotMade(t *testing.T) {
	ending := cartAs("u1")
	ending.DeletionTimestamp, ending.Finalizers = new(metav1.NewTime(time.Now())), []string{"example.com/wait"}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}}
	going := ns.DeepCopy()
	going.DeletionTimestamp, going.Finalizers = ending.DeletionTimestamp, ending.Finalizers
	for name, c := range map[string]struct {
		ns      *corev1.Namespace
		account *metav1.PartialObjectMetadata
		change  func(*SecretKeeper)
		want    int64
	}{
		"account is going":    {ns: ns, account: ending},
		"namespace is going":  {ns: going, account: cartAs("u1")},
		"another namespace's": {ns: ns, account: cartAs("u1"), change: func(k *SecretKeeper) { k.Namespaces = []string{"bank"} }},
		"none of these":       {ns: ns, account: cartAs("u1"), want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				made, stop := quietly(t, fakeCluster(t, c.ns, c.account), c.change)
				lapse(5 * time.Minute)
				if n := made.Load(); n != c.want {
					t.Errorf("%d keys made, want %d", n, c.want)
				}
				stop()
			})
		})
	}
}

// namespaceSeemsGoing makes an API server refuse to create what it is asked for in a
// namespace, for as long as the namespace before it is in its caches.
func namespaceSeemsGoing(api kubernetes.Interface, verb, resource string) (heard *atomic.Bool) {
	heard = new(atomic.Bool)
	api.(*fake.Clientset).PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
		err := apierrors.NewForbidden(corev1.Resource(resource), "", nil)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
		return !heard.Load(), nil, err
	})
	return heard
}

// A namespace that came again gets its Secrets also where the API server takes it for the
// one before at first, which is asked less and less often, for each time costs a key.
func TestSecretsOfANamespaceThatCameAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		heard := namespaceSeemsGoing(api.bulk, "create", "secrets")
		made, stop := quietly(t, api, nil)
		lapse(5 * time.Minute)
		if n := made.Load(); n < 2 || n > 20 {
			t.Errorf("%d keys made in five minutes", n)
		}
		heard.Store(true)
		lapse(2 * lastRetry)
		readSecret(t, api)
		stop()
	})
}

// An account of the same name as an earlier one gets a Secret of its own, and nobody is
// told that something was spoilt.
func TestSecretsOfNamesakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		made, stop := quietly(t, api, nil)
		before := readSecret(t, api)
		if err := api.metadata.(*metadatafake.FakeMetadataClient).Tracker().Update(accountResource, cartAs("u2"), "shop"); err != nil {
			t.Fatal(err)
		}
		lapse(time.Minute)
		after := readSecret(t, api)
		if after.UID == before.UID || after.OwnerReferences[0].UID != "u2" || made.Load() != 2 {
			t.Errorf("%s after %s, owner %s, %d keys made", after.UID, before.UID, after.OwnerReferences[0].UID, made.Load())
		}
		events, err := api.Client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(events.Items) != 0 {
			t.Errorf("%v, %v", events.Items, err)
		}
		stop()
	})
}

// Somebody who deletes or spoils a Secret all the time costs a key at ever longer intervals.
func TestSecretsSpoiltAllTheTime(t *testing.T) {
	for name, spoil := range map[string]func(*API, *corev1.Secret) error{
		"deleted": func(api *API, s *corev1.Secret) error {
			return api.bulk.CoreV1().Secrets("shop").Delete(t.Context(), s.Name, metav1.DeleteOptions{})
		},
		"changed": func(api *API, s *corev1.Secret) error {
			patch, err := json.Marshal(map[string]any{
				"metadata": map[string]any{"uid": s.UID, "resourceVersion": s.ResourceVersion}, "data": map[string][]byte{certKey: []byte("mine")},
			})
			if err == nil {
				_, err = api.bulk.CoreV1().Secrets("shop").Patch(t.Context(), s.Name, types.MergePatchType, patch, metav1.PatchOptions{})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := shop(t)
				made, stop := quietly(t, api, nil)
				for range 600 {
					s, err := api.Client.CoreV1().Secrets("shop").Get(t.Context(), "istio.cart", metav1.GetOptions{})
					if err == nil && string(s.Data[certKey]) != "mine" {
						err = spoil(api, s.DeepCopy())
					}
					if err != nil && !apierrors.IsNotFound(err) {
						t.Fatal(err)
					}
					lapse(100 * time.Millisecond)
				}
				if n := made.Load(); n < 5 || n > 10 { // at 0, 0.5, 1, 2, 4, 8, 16 and 30 s from one to the next
					t.Errorf("%d keys made in a minute", n)
				}
				stop()
			})
		})
	}
}

// What others change and leave good is read once, and not at every look afterwards.
func TestSecretsTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		made, stop := quietly(t, api, nil)
		lapse(time.Minute)
		read := reads(api)
		s := readSecret(t, api)
		read.Store(0)
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q,"annotations":{"theirs":"1"}}}`, s.UID, s.ResourceVersion)
		if _, err := api.bulk.CoreV1().Secrets("shop").Patch(t.Context(), s.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		lapse(3 * time.Hour)
		if read.Load() != 1 || made.Load() != 1 {
			t.Errorf("read %d times, %d keys made", read.Load(), made.Load())
		}
		stop()
	})
}

// Writes keep to the rate; the pass over all keeps to its own, and asks for Secrets of our
// type alone.
func TestSecretRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var accounts []runtime.Object
		for n := range 20 {
			a := cartAs(types.UID(fmt.Sprint("u", n)))
			a.Name = fmt.Sprint("cart-", n)
			accounts = append(accounts, a)
		}
		api := fakeCluster(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}}, accounts...)
		began := time.Now()
		var asked []string
		api.bulk.(*fake.Clientset).PrependReactor("list", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
			list := a.(clienttesting.ListActionImpl)
			asked = append(asked, fmt.Sprintf("%v %s %s", time.Since(began).Round(time.Second), list.ListOptions.Continue, list.ListRestrictions.Fields))
			if list.ListOptions.Continue != "" {
				return true, &corev1.SecretList{}, nil
			}
			return true, &corev1.SecretList{ListMeta: metav1.ListMeta{Continue: "page-2"}, Items: make([]corev1.Secret, 50)}, nil
		})
		made, stop := quietly(t, api, func(k *SecretKeeper) { k.Rate, k.ScrubRate = 2, 5 })
		if n := made.Load(); n < 2 || n > 5 { // what has gathered, and two a second
			t.Errorf("%d keys made in the first second", n)
		}
		lapse(20 * time.Second)
		if n := made.Load(); n != 20 {
			t.Errorf("%d keys made in 20 seconds", n)
		}
		if got := strings.Join(asked, ", "); got != "0s  type=istio.io/key-and-cert, 10s page-2 type=istio.io/key-and-cert" {
			t.Errorf("asked for %s", got)
		}
		stop()
	})
}

// A pass over all Secrets that fails is made again within minutes, not in half a day.
func TestScrubIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := shop(t)
		var passes atomic.Int64
		api.bulk.(*fake.Clientset).PrependReactor("list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			return passes.Add(1) <= 3, nil, apierrors.NewInternalError(errors.New("no quorum"))
		})
		_, stop := quietly(t, api, nil)
		lapse(10 * time.Minute)
		if n := passes.Load(); n != 4 {
			t.Errorf("%d passes, want three that failed and one that did not", n)
		}
		stop()
	})
}

// What is kept of a Secret or an account has what the decision goes by.
func TestTrim(t *testing.T) {
	meta := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "istio.cart", UID: "s1", ResourceVersion: "7", DeletionTimestamp: new(metav1.Now()),
		Labels: map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
		Annotations: map[string]string{
			mesh.SecretExpiry: "2026-11-22T00:00:00Z", mesh.SecretRoots: "r1", mesh.SecretAccount: "u1",
		},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", UID: "u1"}},
	}}
	obj, err := trimSecret(&meta)
	if err != nil {
		t.Fatal(err)
	}
	s := obj.(*secretSight)
	if !s.ending || !s.managed || s.owner != "u1" || s.hints.account != "u1" || s.hints.roots.Value() != "r1" ||
		s.hints.expires != time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC).Unix() || s.version != "7" || s.uid != "s1" {
		t.Errorf("%+v", s)
	}
}
