package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// TestAPIServer runs this package against a real API server, each part as a user
// who has the rights that the package comment lists and no others.
func TestAPIServer(t *testing.T) {
	kubeconfig := meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN"))
	admin, err := Connect(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config, err := load(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	l := lab{admin: admin, config: config, signingKey: filepath.Join(filepath.Dir(kubeconfig), "sa.key")}
	for name, test := range map[string]func(*testing.T, lab){
		"caBundle":       testCABundle,
		"caBundle, tags": testCABundleTags,
		"secrets":        testSecrets,
		"used accounts":  testUsedAccounts,
		"own namespaces": testOwnNamespaces,
		"config maps":    testConfigMaps,
		"publications":   testPublish,
		"one config map": testOneConfigMap,
		"lease":          testLease,
		"LeaseMarks":     testLeaseMarks,
		"CreateOrRead":   testCreateOrRead,
		"EnsureSecret":   testEnsureSecret,
		"WarnOfSecret":   testWarnOfSecret,
		"WatchSecret":    testWatchSecret,
		"WatchConfigMap": testWatchConfigMap,
		"followed map":   testFollowConfigMap,
		"WatchWebhooks":  testWatchWebhooks,
		"namespaces":     testNamespaces,
		"nodes":          testNodes,
		"self-test":      testSelfTest,
		"audit of pods":  testAuditPods,
		"list of pods":   testListPods,
		"tokens":         testTokens,
		"local tokens":   testLocalTokens,
		"keys forbidden": testKeysForbidden,
	} {
		t.Run(name, func(t *testing.T) { test(t, l) })
	}
}

// lab is an API server and its administrator.
type lab struct {
	admin      *API
	config     *rest.Config
	signingKey string // a file: what its tokens are signed with
}

// as returns a connection for a user with these rights, in all namespaces.
func (l lab) as(t *testing.T, rules ...rbacv1.PolicyRule) *API {
	t.Helper()
	user := userOf(t)
	if _, err := l.admin.Client.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.admin.Client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		Subjects:   []rbacv1.Subject{{Kind: "User", Name: user, APIGroup: rbacv1.GroupName}},
		RoleRef:    rbacv1.RoleRef{Kind: "ClusterRole", Name: user, APIGroup: rbacv1.GroupName},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.granted(t, "", rules)
	config := rest.CopyConfig(l.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	api, err := open(config)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// bind gives the user of the test these rights in one namespace.
func (l lab) bind(t *testing.T, namespace string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	user := userOf(t)
	if _, err := l.admin.Client.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.admin.Client.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		Subjects:   []rbacv1.Subject{{Kind: "User", Name: user, APIGroup: rbacv1.GroupName}},
		RoleRef:    rbacv1.RoleRef{Kind: "Role", Name: user, APIGroup: rbacv1.GroupName},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.granted(t, namespace, rules)
}

// also gives these rights to the user of the test besides those that it has.
func (l lab) also(t *testing.T, rules ...rbacv1.PolicyRule) {
	t.Helper()
	roles := l.admin.Client.RbacV1().ClusterRoles()
	role, err := roles.Get(t.Context(), userOf(t), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role.Rules = append(role.Rules, rules...)
	if _, err := roles.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.granted(t, "", rules)
}

// granted waits until the API server goes by these rules, which it hears of from watches of
// its own.
func (l lab) granted(t *testing.T, namespace string, rules []rbacv1.PolicyRule) {
	t.Helper()
	for _, rule := range rules { // one of each will do: a role comes as a whole
		review := authorizationv1.SubjectAccessReviewSpec{User: userOf(t)}
		if len(rule.NonResourceURLs) > 0 {
			review.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: rule.NonResourceURLs[0], Verb: rule.Verbs[0]}
		} else {
			review.ResourceAttributes = &authorizationv1.ResourceAttributes{
				Namespace: namespace, Group: rule.APIGroups[0], Resource: rule.Resources[0], Verb: rule.Verbs[0],
				Name: strings.Join(rule.ResourceNames[:min(1, len(rule.ResourceNames))], ""),
			}
		}
		within(t, func() error {
			answer, err := l.admin.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(),
				&authorizationv1.SubjectAccessReview{Spec: review}, metav1.CreateOptions{})
			if err == nil && !answer.Status.Allowed {
				err = fmt.Errorf("%+v is not allowed", rule)
			}
			return err
		})
	}
}

func userOf(t *testing.T) string {
	return strings.ToLower(strings.NewReplacer("/", "-", " ", "-", ",", "").Replace(t.Name()))
}

// allow is a rule of RBAC: verbs on a resource, and on these names only if given.
func allow(group, resource, verbs string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{
		APIGroups: []string{group}, Resources: []string{resource},
		Verbs: strings.Fields(verbs), ResourceNames: names,
	}
}

// run keeps a part going until the returned function has ended it, at the latest
// with the test.
func run(t *testing.T, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }() // stop waits
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(patience):
			t.Error("did not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// patience is longer than a busy machine takes for anything, and than what fails waits
// at most before it is tried again.
const patience = 2 * time.Minute

// within polls until check returns nil, for as long as there is patience.
func within(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", patience, err)
		}
		<-tick.C
	}
}

// holdsFor polls and fails as soon as check returns an error: for what must not
// happen.
func holdsFor(t *testing.T, d time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		if err := check(); err != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
}

func (l lab) namespace(t *testing.T, name string, labels map[string]string) *corev1.Namespace {
	t.Helper()
	ns, err := l.admin.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return ns
}

// finalize ends a namespace that is terminating, as the controller manager would.
func (l lab) finalize(t *testing.T, name string) {
	t.Helper()
	ns, err := l.admin.Client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ns.Spec.Finalizers = nil
	if _, err := l.admin.Client.CoreV1().Namespaces().Finalize(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Admission hears of it from a watch of its own. Until then it would take the next namespace
	// of that name for this one, and let nothing in.
	probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "probe"}}
	within(t, func() error {
		_, err := l.admin.Client.CoreV1().ConfigMaps(name).Create(t.Context(), probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("namespace %s: got %w, want not found", name, err)
		}
		return nil
	})
}

func (l lab) account(t *testing.T, namespace, name string) *corev1.ServiceAccount {
	t.Helper()
	account, err := l.admin.Client.CoreV1().ServiceAccounts(namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return account
}

// logger writes to the test's output.
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
