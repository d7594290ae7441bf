package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Certificates of these tests are lines "<account> <uid> <renewal>".

const certKey = "cert"

var errSpoilt = errors.New("spoilt")

func certLine(account mesh.ServiceAccount, renew time.Time) []byte {
	return fmt.Appendf(nil, "%s %s %s", account, account.UID, renew.Format(time.RFC3339Nano))
}

func checkLine(account mesh.ServiceAccount, secret *corev1.Secret, _ time.Time) (time.Time, error) {
	name, rest, _ := strings.Cut(string(secret.Data[certKey]), " ")
	uid, at, _ := strings.Cut(rest, " ")
	renew, err := time.Parse(time.RFC3339Nano, at)
	if name != account.String() || uid != account.UID || err != nil {
		return time.Time{}, errSpoilt
	}
	return renew, nil
}

// keeper makes certificates that are to be renewed after a second where the
// account's name says brief, else after 45 days.
func keeper(t *testing.T) SecretKeeper {
	return SecretKeeper{
		InScope: func(ns *corev1.Namespace, _ Account) bool { return ns.Labels[mesh.InjectionLabel] == "enabled" },
		Basis:   func(mesh.ServiceAccount) Basis { return Basis{Roots: "roots 1"} },
		Check:   checkLine,
		Make: func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) {
			renew := now.Add(45 * 24 * time.Hour)
			if strings.HasPrefix(account.Name, "brief") {
				renew = now.Add(time.Second)
			}
			if account.Name == "broken" {
				return nil, errors.New("no certificate for you")
			}
			return &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
					mesh.SecretAccount: account.UID, mesh.SecretRoots: "roots 1", mesh.SecretExpiry: renew.Add(time.Hour).UTC().Format(time.RFC3339),
				}},
				Data: map[string][]byte{certKey: certLine(account, renew)},
			}, nil
		},
		Log:     logger(t),
		Metrics: prometheus.NewRegistry(),
	}
}

// TestSecretsForMonths holds that a Secret is renewed when it is due, by nothing
// but the passing of time, and not more often.
func TestSecretsForMonths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}}
		account := &metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "u1"},
		}
		api := fakeCluster(t, ns, account)
		k := keeper(t)
		k.Log = nil
		made := 0
		mk := k.Make
		k.Make = func(a mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) { made++; return mk(a, now) }
		k.Resync = 24 * time.Hour
		stop := run(t, api.KeepSecrets(k))
		<-time.After(100 * 24 * time.Hour)
		synctest.Wait()
		if made != 3 { // at day 0, 45 and 90
			t.Errorf("made %d times in 100 days, want 3", made)
		}
		stop()
	})
}

func testSecrets(t *testing.T, l lab) {
	api := l.as(t,
		allow("", "namespaces", "list watch"),
		allow("", "serviceaccounts", "get list watch"),
		allow("", "secrets", "get list watch create patch delete"),
		allow("", "events", "create"))
	in := map[string]string{mesh.InjectionLabel: "enabled"}
	l.namespace(t, "shop", in)
	l.namespace(t, "unlabelled", nil)
	before := l.account(t, "shop", "before")
	l.account(t, "shop", "broken") // starves nobody
	l.account(t, "unlabelled", "cart")
	orphan := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "istio.nobody", Labels: map[string]string{mesh.ManagedByLabel: mesh.ManagedBy}},
		Type:       mesh.WorkloadSecretType,
	}
	older := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "istio.stranger"}, Type: mesh.WorkloadSecretType}
	core := l.admin.Client.CoreV1()
	for _, s := range []*corev1.Secret{orphan, older} {
		if _, err := core.Secrets("shop").Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	k := keeper(t)
	mk := k.Make
	k.Make = func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) {
		if account.Name == "vanishing" { // while its Secret is being made
			if err := core.ServiceAccounts(account.Namespace).Delete(t.Context(), account.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
		return mk(account, now)
	}
	var leftScope atomic.Bool
	inScope := k.InScope
	k.InScope = func(ns *corev1.Namespace, account Account) bool {
		if ns.Labels[mesh.InjectionLabel] == "disabled" {
			leftScope.Store(true)
		}
		return inScope(ns, account)
	}
	stop := run(t, api.KeepSecrets(k))

	// kept waits until the account's Secret is good, and not one of the unwanted.
	kept := func(t *testing.T, account *corev1.ServiceAccount, not ...types.UID) (secret *corev1.Secret) {
		t.Helper()
		within(t, func() (err error) {
			secret, err = core.Secrets(account.Namespace).Get(t.Context(), "istio."+account.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if slices.Contains(not, secret.UID) {
				return errors.New("still the old Secret")
			}
			who := mesh.ServiceAccount{Namespace: account.Namespace, Name: account.Name, UID: string(account.UID)}
			if do := k.judge(who, secret, time.Now()); do.change != none && do.change != renewed { // it may be due by now
				return fmt.Errorf("%s to be %s: %w", secret.Name, do.change, do.why)
			}
			return nil
		})
		return secret
	}
	absent := func(t *testing.T, namespace, name string) {
		t.Helper()
		within(t, func() error {
			if _, err := core.Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("secret %s: got %w, want not found", name, err)
			}
			return nil
		})
	}
	staysAbsent := func(t *testing.T, namespace, name string) {
		t.Helper()
		holdsFor(t, time.Second, func() error {
			if _, err := core.Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("secret %s: got %w, want not found", name, err)
			}
			return nil
		})
	}

	blocked := func(want int) error {
		const gauge = "citadel_workload_secrets_blocked"
		return testutil.GatherAndCompare(k.Metrics.(prometheus.Gatherer), strings.NewReader(fmt.Sprintf(
			"# HELP %[1]s Service accounts without a certificate because a Secret of another type has its name.\n"+
				"# TYPE %[1]s gauge\n%[1]s %[2]d\n", gauge, want)), gauge)
	}

	t.Run("created", func(t *testing.T) {
		secret := kept(t, before)
		owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "before", UID: before.UID}}
		if diff := cmp.Diff(owner, secret.OwnerReferences); diff != "" || secret.Type != mesh.WorkloadSecretType {
			t.Errorf("type %s, owner (-want +got): %s", secret.Type, diff)
		}
		kept(t, l.account(t, "shop", "after"))
		kept(t, l.account(t, "shop", "with.dots"))
		absent(t, "shop", "istio.nobody")
		staysAbsent(t, "unlabelled", "istio.cart")
		if _, err := core.Secrets("shop").Get(t.Context(), "istio.stranger", metav1.GetOptions{}); err != nil {
			t.Errorf("a Secret without our label and account: %v", err)
		}
	})

	t.Run("deleted", func(t *testing.T) {
		secret := kept(t, before)
		if err := core.Secrets("shop").Delete(t.Context(), secret.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		kept(t, before, secret.UID)
		t.Logf("back after %v", time.Since(start))
	})

	t.Run("spoilt", func(t *testing.T) {
		for name, spoil := range map[string]func(*corev1.Secret){
			"data":     func(s *corev1.Secret) { s.Data[certKey] = []byte("mine") },
			"no data":  func(s *corev1.Secret) { s.Data = nil },
			"no label": func(s *corev1.Secret) { s.Labels = map[string]string{"theirs": "1"} },
			"no owner": func(s *corev1.Secret) { s.OwnerReferences = nil },
		} {
			account := l.account(t, "shop", "spoilt-"+strings.ReplaceAll(name, " ", "-"))
			secret := kept(t, account)
			spoil(secret)
			if _, err := core.Secrets("shop").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			repaired := kept(t, account)
			if repaired.UID != secret.UID {
				t.Errorf("%s: deleted instead of repaired", name)
			}
			if name == "no label" && repaired.Labels["theirs"] != "1" {
				t.Errorf("%s: a foreign label is gone", name)
			}
		}
	})

	t.Run("renewed", func(t *testing.T) {
		account := l.account(t, "shop", "brief")
		seen := map[string]types.UID{}
		within(t, func() error {
			s := kept(t, account)
			seen[string(s.Data[certKey])] = s.UID
			if len(seen) < 3 {
				return fmt.Errorf("%d certificates", len(seen))
			}
			return nil
		})
		uids := map[types.UID]bool{}
		for uid := range maps.Values(seen) {
			uids[uid] = true
		}
		if len(uids) != 1 {
			t.Errorf("%d Secrets, want one that is updated", len(uids))
		}
	})

	t.Run("immutable", func(t *testing.T) {
		account := l.account(t, "shop", "brief-immutable")
		var secret *corev1.Secret
		within(t, func() (err error) { // between two renewals
			secret = kept(t, account)
			yes := true
			secret.Immutable = &yes
			_, err = core.Secrets("shop").Update(t.Context(), secret, metav1.UpdateOptions{})
			return err
		})
		if next := kept(t, account, secret.UID); next.Immutable != nil && *next.Immutable {
			t.Error("immutable again")
		}
	})

	t.Run("account deleted", func(t *testing.T) {
		account := l.account(t, "shop", "short-lived")
		kept(t, account)
		if err := core.ServiceAccounts("shop").Delete(t.Context(), account.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		absent(t, "shop", "istio.short-lived")
		staysAbsent(t, "shop", "istio.short-lived")
	})

	t.Run("account deleted during issuance", func(t *testing.T) {
		l.account(t, "shop", "vanishing")
		within(t, func() error {
			if _, err := core.ServiceAccounts("shop").Get(t.Context(), "vanishing", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("account: got %w, want not found", err)
			}
			return nil
		})
		<-time.After(time.Second) // it comes, and goes again
		absent(t, "shop", "istio.vanishing")
	})

	t.Run("account made anew", func(t *testing.T) {
		account := l.account(t, "shop", "reborn")
		secret := kept(t, account)
		if err := core.ServiceAccounts("shop").Delete(t.Context(), account.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		kept(t, l.account(t, "shop", "reborn"), secret.UID)
	})

	t.Run("foreign type", func(t *testing.T) {
		foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "istio.taken"}, Data: map[string][]byte{"pw": []byte("x")}}
		foreign, err := core.Secrets("shop").Create(t.Context(), foreign, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		account := l.account(t, "shop", "taken")
		within(t, func() error {
			events, err := core.Events("shop").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, e := range events.Items {
				if e.InvolvedObject.UID == account.UID && e.Type == corev1.EventTypeWarning {
					t.Logf("event: %s: %s", e.Reason, e.Message)
					return nil
				}
			}
			return errors.New("no Event")
		})
		if err := blocked(1); err != nil {
			t.Error(err)
		}
		now, err := core.Secrets("shop").Get(t.Context(), foreign.Name, metav1.GetOptions{})
		if err != nil || now.ResourceVersion != foreign.ResourceVersion {
			t.Errorf("foreign Secret: %v, %v", now, err)
		}
		if err := core.Secrets("shop").Delete(t.Context(), foreign.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		account.Annotations = map[string]string{"look": "again"} // sooner than by the clock
		if account, err = core.ServiceAccounts("shop").Update(t.Context(), account, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		kept(t, account)
	})

	t.Run("scope", func(t *testing.T) {
		ns := l.namespace(t, "scope", nil)
		account := l.account(t, "scope", "cart")
		staysAbsent(t, "scope", "istio.cart")
		ns.Labels[mesh.InjectionLabel] = "enabled"
		ns, err := core.Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secret := kept(t, account)
		ns.Labels[mesh.InjectionLabel] = "disabled"
		if _, err := core.Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		holdsFor(t, time.Second, func() error {
			now, err := core.Secrets("scope").Get(t.Context(), secret.Name, metav1.GetOptions{})
			if err == nil && now.UID != secret.UID {
				err = errors.New("another Secret")
			}
			return err
		})
		within(t, func() error { // two watches: either may be behind
			if !leftScope.Load() {
				return errors.New("not seen to leave the scope")
			}
			return nil
		})
		if err := core.Secrets("scope").Delete(t.Context(), secret.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		staysAbsent(t, "scope", secret.Name)
	})

	t.Run("namespace made anew", func(t *testing.T) {
		l.namespace(t, "reborn", in)
		account := l.account(t, "reborn", "cart")
		secret := kept(t, account)
		if err := core.Namespaces().Delete(t.Context(), "reborn", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := core.Secrets("reborn").Delete(t.Context(), secret.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		staysAbsent(t, "reborn", secret.Name) // terminating
		if err := core.ServiceAccounts("reborn").Delete(t.Context(), "cart", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		l.finalize(t, "reborn")
		l.namespace(t, "reborn", in)
		kept(t, l.account(t, "reborn", "cart"))
	})

	t.Run("lease lost", func(t *testing.T) {
		foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "istio.taken-too"}}
		if _, err := core.Secrets("shop").Create(t.Context(), foreign, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		l.account(t, "shop", "taken-too")
		within(t, func() error { return blocked(1) })
		stop()
		if err := blocked(0); err != nil {
			t.Errorf("who does not lead knows of nothing: %v", err)
		}
	})

	t.Run("lease lost in mid-write", func(t *testing.T) {
		deposed := k
		ctx, cancel := context.WithCancel(t.Context())
		deposed.Make = func(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) {
			if account.Name == "contested" {
				cancel()
			}
			return mk(account, now)
		}
		l.account(t, "shop", "contested")
		if err := api.KeepSecrets(deposed)(ctx); err != nil {
			t.Error(err)
		}
		staysAbsent(t, "shop", "istio.contested")
	})

	t.Run("next leader", func(t *testing.T) {
		secret := kept(t, before)
		account := l.account(t, "shop", "meanwhile")
		staysAbsent(t, "shop", "istio.meanwhile")
		run(t, api.KeepSecrets(k)) // the same metrics registry
		kept(t, account)
		if again := kept(t, before); again.ResourceVersion != secret.ResourceVersion {
			t.Error("a good Secret was written again")
		}
	})
}
