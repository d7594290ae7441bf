package cluster

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// lives is what the metrics say of the lives of Secrets.
type lives struct{ created, accountDeleted, secretDeleted, blocked float64 }

func livesOf(t *testing.T, k SecretKeeper) (l lives) {
	t.Helper()
	families, err := k.Metrics.(prometheus.Gatherer).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		m := f.GetMetric()[0]
		switch f.GetName() {
		case "citadel_secret_controller_svc_acc_created_cert_count":
			l.created = m.GetCounter().GetValue()
		case "citadel_secret_controller_svc_acc_deleted_cert_count":
			l.accountDeleted = m.GetCounter().GetValue()
		case "citadel_secret_controller_secret_deleted_cert_count":
			l.secretDeleted = m.GetCounter().GetValue()
		case "citadel_workload_secrets_blocked":
			l.blocked = m.GetGauge().GetValue()
		}
	}
	return l
}

// Each life of a Secret is counted once, and for what ended it.
func TestSecretLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, k := shop(t), keeper(t)
		k.Log = nil
		var made atomic.Int64
		mk := k.Make
		k.Make = func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) {
			made.Add(1)
			return mk(account, now)
		}
		var left atomic.Bool
		again := make(chan struct{})
		k.InScope, k.Again = func(*corev1.Namespace, Account) bool { return !left.Load() }, again
		secrets, accounts := api.bulk.CoreV1().Secrets("shop"), api.metadata.(*metadatafake.FakeMetadataClient).Tracker()
		var byHand atomic.Int64
		deleteSecret := func() {
			t.Helper()
			byHand.Add(1)
			defer byHand.Add(-1)
			if err := secrets.Delete(t.Context(), "istio.cart", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		deleteAccount := func() {
			t.Helper()
			if err := accounts.Delete(accountResource, "shop", "cart"); err != nil {
				t.Fatal(err)
			}
		}
		account := func(uid types.UID) {
			t.Helper()
			if err := accounts.Create(accountResource, cartAs(uid), "shop"); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(when string, want lives) {
			t.Helper()
			lapse(2 * time.Minute)
			if diff := cmp.Diff(want, livesOf(t, k), cmp.AllowUnexported(lives{})); diff != "" {
				t.Errorf("%s (-want +got): %s", when, diff)
			}
		}
		var stuck atomic.Bool // nobody can be asked whether an account is gone
		api.metadata.(*metadatafake.FakeMetadataClient).PrependReactor("get", "serviceaccounts", func(clienttesting.Action) (
			bool, runtime.Object, error,
		) {
			return stuck.Load(), nil, apierrors.NewInternalError(errors.New("no quorum"))
		})
		api.bulk.(*fake.Clientset).PrependReactor("delete", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if o := a.(clienttesting.DeleteActionImpl).DeleteOptions.Preconditions; byHand.Load() == 0 &&
				(o == nil || o.UID == nil || *o.UID == "" || o.ResourceVersion == nil || *o.ResourceVersion == "") {
				t.Errorf("deleted whatever was there: %+v", o)
			}
			return false, nil, nil
		})
		stop := run(t, api.KeepSecrets(k))
		expect("created", lives{created: 1})
		deleteSecret()
		expect("Secret deleted", lives{created: 2, secretDeleted: 1})
		deleteAccount()
		expect("account deleted", lives{created: 2, secretDeleted: 1, accountDeleted: 1})
		account("u2")
		expect("account made anew", lives{created: 3, secretDeleted: 1, accountDeleted: 1})
		stuck.Store(true)
		deleteAccount()
		lapse(time.Second)
		stuck.Store(false)
		deleteSecret() // the garbage collector was faster
		expect("both deleted", lives{created: 3, secretDeleted: 1, accountDeleted: 2})
		account("u3")
		expect("account made a third time", lives{created: 4, secretDeleted: 1, accountDeleted: 2})
		left.Store(true)
		again <- struct{}{}
		lapse(time.Second)
		deleteSecret()
		expect("Secret deleted, account out of scope", lives{created: 4, secretDeleted: 1, accountDeleted: 2})

		// The watch does not show Secrets of another type.
		foreign := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: mesh.WorkloadSecret("cart"), UID: "foreign"}, Type: corev1.SecretTypeOpaque,
		}
		if err := api.bulk.(*fake.Clientset).Tracker().Add(foreign); err != nil {
			t.Fatal(err)
		}
		made.Store(0)
		left.Store(false)
		again <- struct{}{}
		expect("name taken", lives{created: 4, secretDeleted: 1, accountDeleted: 2, blocked: 1})
		lapse(time.Hour)
		if n := made.Load(); n != 1 {
			t.Errorf("%d keys made that nobody gets, want the first alone", n)
		}
		if err := api.bulk.(*fake.Clientset).Tracker().Delete(secretResource, "shop", "istio.cart"); err != nil {
			t.Fatal(err)
		}
		expect("name free again", lives{created: 5, secretDeleted: 1, accountDeleted: 2})
		left.Store(true)
		again <- struct{}{}
		lapse(time.Second)
		deleteSecret()
		lapse(time.Second)
		if err := api.bulk.(*fake.Clientset).Tracker().Add(foreign); err != nil {
			t.Fatal(err)
		}
		left.Store(false)
		again <- struct{}{}
		expect("name taken again", lives{created: 5, secretDeleted: 1, accountDeleted: 2, blocked: 1})
		deleteAccount()
		expect("name taken, account deleted", lives{created: 5, secretDeleted: 1, accountDeleted: 2})
		stop()
	})
}
