package manifests_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/garrison-mesh/garrison/internal/cli"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The policy spells names that internal/mesh has: those and no others.
func TestCitadelPolicy(t *testing.T) {
	policies := all[*admissionv1.ValidatingAdmissionPolicy](t)
	i := slices.IndexFunc(policies, func(p *admissionv1.ValidatingAdmissionPolicy) bool { return p.Name == "garrison-citadel-secrets" })
	if i < 0 {
		t.Fatal("no policy of Citadel's writes")
	}
	var expressions []string
	for _, v := range policies[i].Spec.Validations {
		expressions = append(expressions, v.Expression)
	}
	expressions = append(expressions, policies[i].Spec.MatchConditions[0].Expression)
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
		mesh.WorkloadSecretPrefix, mesh.WorkloadSecretType, "CREATE", "UPDATE", mesh.IntermediateSecret,
		"system:serviceaccount:" + mesh.SystemNamespace + ":" + mesh.ServerAccount(mesh.CitadelService),
		mesh.CASecret, mesh.IntermediateSecret, mesh.IssuanceLogSecret, mesh.SystemNamespace, mesh.CAKeysLabel,
	}
	if diff := cmp.Diff(want, quoted); diff != "" {
		t.Errorf("names in the policy (-want +got): %s", diff)
	}
}

// What Citadel knows of the API server is good for the revocation window. That the API
// server is gone without a word has to show long before, and the library's own half minute
// and more is too late.
func TestSilenceShowsWithinTheWindow(t *testing.T) {
	env := map[string]string{}
	for _, e := range named(t, all[*appsv1.Deployment](t), "citadel").Spec.Template.Spec.Containers[0].Env {
		env[e.Name] = e.Value
	}
	var silence time.Duration
	for _, name := range []string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS", "HTTP2_PING_TIMEOUT_SECONDS"} { // as k8s.io/apimachinery reads them
		d, err := time.ParseDuration(env[name] + "s")
		if err != nil || d == 0 {
			t.Errorf("%s: %q", name, env[name])
		}
		silence += d
	}
	if silence > cluster.DefaultWindow/2 {
		t.Errorf("shows after %v, with a window of %v", silence, cluster.DefaultWindow)
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
	const all = "create, patch, delete"
	for _, c := range []struct {
		namespace, name string
		kind            corev1.SecretType
		may             string
	}{
		{theirs, "istio.cart", mesh.WorkloadSecretType, all},
		{mesh.SystemNamespace, "istio.cart", mesh.WorkloadSecretType, all},
		{mesh.SystemNamespace, mesh.CASecret, mesh.CASecretType, "create"},
		{mesh.SystemNamespace, mesh.IntermediateSecret, mesh.IntermediateSecretType, "create, patch"},
		{mesh.SystemNamespace, mesh.IssuanceLogSecret, corev1.SecretTypeOpaque, "create"},
		{"ca-vault", mesh.CASecret, mesh.CASecretType, "create"},
		{"ca-vault", mesh.IntermediateSecret, mesh.IntermediateSecretType, "create, patch"},

		{theirs, "istio.cart-opaque", corev1.SecretTypeOpaque, ""},
		{theirs, "istio.cart-tls", "", ""},
		{theirs, "istio", mesh.WorkloadSecretType, ""},
		{theirs, "cart", mesh.WorkloadSecretType, ""},
		{theirs, "database", corev1.SecretTypeOpaque, ""},
		{theirs, mesh.CASecret, mesh.CASecretType, ""},
		{"ca-vault", "database", corev1.SecretTypeOpaque, ""},
		{mesh.SystemNamespace, mesh.PluggedSecret, corev1.SecretTypeOpaque, ""},
	} {
		secret := object(t, &corev1.Secret{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: c.name},
			Type:       c.kind,
		})
		own := citadel.Namespace(c.namespace)
		judged := func(verb string, err error) {
			t.Helper()
			if may := strings.Contains(c.may, verb); may && err != nil || !may && !apierrors.IsForbidden(err) {
				t.Errorf("%s %s/%s of type %q: %v", verb, c.namespace, c.name, c.kind, err)
			}
		}
		_, err := own.Create(t.Context(), secret, metav1.CreateOptions{})
		judged("create", err)
		if err != nil { // there all the same
			if _, err := l.Resource(secrets).Namespace(c.namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = own.Patch(t.Context(), c.name, types.MergePatchType, []byte(`{"metadata":{"labels":{"mine":"1"}}}`), metav1.PatchOptions{})
		judged("patch", err)
		judged("delete", own.Delete(t.Context(), c.name, metav1.DeleteOptions{}))
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

// In the place of the binding of the whole cluster, what garrison manifests citadel prints
// gives Citadel Secrets in the namespaces named and nowhere else, its CA's in a namespace
// of their own, and the ConfigMap of Istio 1.1.
func testSingleNamespaces(t *testing.T, l lab) {
	const alone, other, vault = "garrison-single", "garrison-single-not", "garrison-single-vault"
	for _, ns := range []string{alone, other} {
		o := object(t, &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: ns}})
		if _, err := l.Resource(namespaces).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	citadel := l.as(t, mesh.ServerAccount(mesh.CitadelService))
	legacy := object(t, &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: mesh.LegacyRootConfigMap},
	})
	writeLegacy := func() error {
		there := citadel.Resource(configMaps).Namespace(mesh.SystemNamespace)
		_, err := there.Apply(t.Context(), legacy.GetName(), legacy, metav1.ApplyOptions{FieldManager: mesh.CitadelFieldManager})
		return err
	}
	if err := writeLegacy(); !apierrors.IsForbidden(err) {
		t.Errorf("%s, which the manifests grant nobody: %v", mesh.LegacyRootConfigMap, err)
	}

	for _, o := range printed(t, "manifests", "citadel", "--namespaces", alone, "--ca-namespace", vault, "--legacy-root-config-map") {
		l.apply(t, o)
	}
	bindings := rbacv1.SchemeGroupVersion.WithResource("clusterrolebindings")
	if err := l.Resource(bindings).Delete(t.Context(), "garrison-citadel-secrets", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	defer l.install(t)

	own := citadel.Resource(secrets)
	list := func(namespace, name string) func() error {
		o := metav1.ListOptions{}
		if name != "" {
			o.FieldSelector = "metadata.name=" + name
		}
		return func() error {
			_, err := own.Namespace(namespace).List(t.Context(), o)
			return err
		}
	}
	secret := func(namespace, name string) *unstructured.Unstructured {
		return object(t, &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		})
	}
	create := func(namespace, name string) func() error {
		return func() error {
			_, err := own.Namespace(namespace).Create(t.Context(), secret(namespace, name), metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				err = nil
			}
			return err
		}
	}
	update := func(namespace, name string) func() error {
		return func() error {
			_, err := own.Namespace(namespace).Update(t.Context(), secret(namespace, name), metav1.UpdateOptions{})
			return err
		}
	}
	for _, c := range []struct {
		what      string
		try       func() error
		forbidden bool
	}{
		{"Secrets of a namespace that is named", list(alone, ""), false},
		{"of its own", list(mesh.SystemNamespace, ""), false},
		{"of another", list(other, ""), true},
		{"of all", list("", ""), true},
		{"all of the CA's namespace", list(vault, ""), true},
		{"the root there", list(vault, mesh.CASecret), false},
		{"what signs there", list(vault, mesh.IntermediateSecret), false},
		{"the root is made", create(vault, mesh.CASecret), false},
		{"what signs is made", create(vault, mesh.IntermediateSecret), false},
		{"something else is", create(vault, "database"), true},
		{"what signs is renewed", update(vault, mesh.IntermediateSecret), false},
		{"the root is changed", update(vault, mesh.CASecret), true},
		{mesh.LegacyRootConfigMap, writeLegacy, false},
	} {
		// RBAC and the policy hear of a change a moment later.
		eventually(t, c.what, func() bool {
			err := c.try()
			return err == nil && !c.forbidden || apierrors.IsForbidden(err) && c.forbidden
		})
	}
}

// printed returns the objects that a command of garrison prints.
func printed(t *testing.T, args ...string) (objects []*unstructured.Unstructured) {
	t.Helper()
	var out bytes.Buffer
	if err := cli.Run(t.Context(), cli.Env{Out: &out, Err: t.Output()}, args...); err != nil {
		t.Fatal(err)
	}
	for decoder := utilyaml.NewYAMLOrJSONDecoder(&out, 4096); ; {
		u := &unstructured.Unstructured{}
		switch err := decoder.Decode(u); {
		case errors.Is(err, io.EOF):
			return objects
		case err != nil:
			t.Fatal(err)
		}
		if u.Object != nil {
			objects = append(objects, u)
		}
	}
}
