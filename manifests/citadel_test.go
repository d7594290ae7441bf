package manifests_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The policy spells names that internal/mesh has: those and no others.
func TestCitadelPolicy(t *testing.T) {
	policies := all[*admissionv1.ValidatingAdmissionPolicy](t)
	i := slices.IndexFunc(policies, func(p *admissionv1.ValidatingAdmissionPolicy) bool { return p.Name == "garrison-citadel-secrets" })
	if i < 0 {
		t.Fatal("no policy of Citadel's writes")
	}
	expressions := []string{policies[i].Spec.Validations[0].Expression, policies[i].Spec.MatchConditions[0].Expression}
	for _, v := range policies[i].Spec.Variables {
		if v.Name == "own" {
			expressions = append(expressions, v.Expression)
		}
	}
	var quoted []string
	for _, e := range expressions {
		for n, part := range strings.Split(e, "'") {
			if n%2 == 1 {
				quoted = append(quoted, part)
			}
		}
	}
	want := []string{
		mesh.WorkloadSecretPrefix, mesh.WorkloadSecretType,
		"system:serviceaccount:" + mesh.SystemNamespace + ":" + mesh.ServerAccount(mesh.CitadelService),
		mesh.CASecret, mesh.IntermediateSecret, mesh.IssuanceLogSecret, mesh.SystemNamespace, mesh.CAKeysLabel,
	}
	if diff := cmp.Diff(want, quoted); diff != "" {
		t.Errorf("names in the policy (-want +got): %s", diff)
	}
}

func testSecretRights(t *testing.T, l lab) {
	const theirs = "garrison-citadel-rights"
	for name, labels := range map[string]map[string]string{theirs: nil, "ca-vault": {mesh.CAKeysLabel: "true"}} {
		ns := object(t, &corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		})
		if _, err := l.Resource(namespaces).Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	citadel := l.as(t, mesh.ServerAccount(mesh.CitadelService)).Resource(secrets)
	for _, c := range []struct {
		namespace, name string
		kind            corev1.SecretType
		allowed         bool
	}{
		{theirs, "istio.cart", mesh.WorkloadSecretType, true},
		{mesh.SystemNamespace, "istio.cart", mesh.WorkloadSecretType, true},
		{mesh.SystemNamespace, mesh.CASecret, mesh.CASecretType, true},
		{mesh.SystemNamespace, mesh.IntermediateSecret, "garrison.io/ca-intermediate", true},
		{mesh.SystemNamespace, mesh.IssuanceLogSecret, corev1.SecretTypeOpaque, true},
		{"ca-vault", mesh.CASecret, mesh.CASecretType, true},

		{theirs, "istio.cart-opaque", corev1.SecretTypeOpaque, false},
		{theirs, "istio.cart-tls", "", false},
		{theirs, "istio", mesh.WorkloadSecretType, false},
		{theirs, "cart", mesh.WorkloadSecretType, false},
		{theirs, "database", corev1.SecretTypeOpaque, false},
		{theirs, mesh.CASecret, mesh.CASecretType, false},
		{"ca-vault", "database", corev1.SecretTypeOpaque, false},
		{mesh.SystemNamespace, "cacerts", corev1.SecretTypeOpaque, false},
	} {
		secret := object(t, &corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: c.name},
			Type:       c.kind,
		})
		own := citadel.Namespace(c.namespace)
		refused := func(what string, err error) {
			t.Helper()
			if c.allowed && err != nil || !c.allowed && !apierrors.IsForbidden(err) {
				t.Errorf("%s %s/%s of type %q: %v", what, c.namespace, c.name, c.kind, err)
			}
		}
		_, err := own.Create(t.Context(), secret, metav1.CreateOptions{})
		refused("create", err)
		if !c.allowed { // there all the same
			if _, err := l.Resource(secrets).Namespace(c.namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = own.Patch(t.Context(), c.name, types.MergePatchType, []byte(`{"metadata":{"labels":{"mine":"1"}}}`), metav1.PatchOptions{})
		refused("patch", err)
		refused("delete", own.Delete(t.Context(), c.name, metav1.DeleteOptions{}))
	}
	generated := object(t, &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{GenerateName: "database-"},
	})
	if _, err := citadel.Namespace(theirs).Create(t.Context(), generated, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a name that the API server makes up: %v", err)
	}
	// Others are none of its business.
	if err := l.dryRun(t, secrets, theirs, generated); err != nil {
		t.Error(err)
	}
}

// Bound in one namespace, the role of the whole cluster gives Secrets there and nowhere
// else, as garrison manifests citadel prints it.
func testSingleNamespaces(t *testing.T, l lab) {
	const alone = "garrison-single"
	for _, ns := range []string{alone, alone + "-not"} {
		o := object(t, &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: ns}})
		if _, err := l.Resource(namespaces).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bound := object(t, &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Namespace: alone, Name: "garrison-citadel-secrets"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "garrison-citadel-secrets"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: alone, Name: "citadel"}},
	})
	bindings := rbacv1.SchemeGroupVersion.WithResource("rolebindings")
	if _, err := l.Resource(bindings).Namespace(alone).Create(t.Context(), bound, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(l.config)
	config.Impersonate.UserName = "system:serviceaccount:" + alone + ":citadel"
	citadel := connect(t, config).Resource(secrets)
	deadline := time.Now().Add(30 * time.Second)
	for { // RBAC hears of a binding a moment later
		_, err := citadel.Namespace(alone).List(t.Context(), metav1.ListOptions{})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if _, err := citadel.Namespace(alone+"-not").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another namespace: %v", err)
	}
	if _, err := citadel.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all namespaces: %v", err)
	}
}
