package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// secretsRole names the ClusterRole that manifests/base binds in the whole cluster.
const secretsRole = "garrison-citadel-secrets"

// citadelRights are what Citadel is granted instead, or besides.
type citadelRights struct {
	namespaces  []string
	caNamespace string
	legacyRoots bool
}

func citadelManifest() *cobra.Command {
	var r citadelRights
	c := &cobra.Command{
		Use:   "citadel",
		Short: "Print rights of Citadel in single namespaces",
		Long: `Print bindings by which Citadel may read and write Secrets in some namespaces, in
place of the binding garrison-citadel-secrets of the whole cluster. Citadel is to be
told the same namespaces with the setting secret-namespaces. Once they are there, make
install takes that of the whole cluster away; who installs in another way deletes it,
after each time.

With --ca-namespace also the right to keep the Secrets of the CA in a namespace of
their own, and that namespace, which has to hold nothing else: make uninstall removes
it. Citadel is to be told the same with the setting ca-namespace, before its first
start; a CA that is there already has to be moved (docs/citadel.md).

With --legacy-root-config-map also the right to write the ConfigMap istio-security of
Istio 1.1, for the setting of the same name.`,
		Example: `  garrison manifests citadel --namespaces shop,bank --ca-namespace vault | kubectl apply -f -
  make install # with secret-namespaces: shop,bank and ca-namespace: vault in the settings`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			objects, err := r.objects()
			if err != nil {
				return mistaken(c, err)
			}
			return printYAML(c.OutOrStdout(), objects)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringSliceVar(&r.namespaces, "namespaces", nil, "where Citadel writes Secrets, besides "+mesh.SystemNamespace)
	f.StringVar(&r.caNamespace, "ca-namespace", "", "where it keeps the Secrets of the CA; "+mesh.SystemNamespace+" without")
	f.BoolVar(&r.legacyRoots, "legacy-root-config-map", false, "also the ConfigMap "+mesh.LegacyRootConfigMap)
	return c
}

func (r citadelRights) objects() ([]runtime.Object, error) {
	if len(r.namespaces) == 0 && r.caNamespace == "" && !r.legacyRoots {
		return nil, errors.New("nothing asked for: name --namespaces, --ca-namespace or --legacy-root-config-map")
	}
	named := slices.Clone(r.namespaces)
	if r.caNamespace != "" {
		named = append(named, r.caNamespace)
	}
	for _, ns := range named {
		if problems := validation.IsDNS1123Label(ns); len(problems) > 0 {
			return nil, fmt.Errorf("namespace %q: %s", ns, strings.Join(problems, "; "))
		}
	}
	var objects []runtime.Object
	if len(r.namespaces) > 0 {
		all := append(slices.Clone(r.namespaces), mesh.SystemNamespace)
		slices.Sort(all)
		for _, ns := range slices.Compact(all) {
			objects = append(objects, binding(ns, secretsRole, "ClusterRole"))
		}
	}
	if ns := r.caNamespace; ns != "" && ns != mesh.SystemNamespace {
		const name = "garrison-citadel-ca"
		secrets := func(verbs []string, names ...string) rbacv1.PolicyRule {
			return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: names, Verbs: verbs}
		}
		space := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: owned("", ns)}
		space.Labels[mesh.CAKeysLabel], space.Labels[mesh.InjectionLabel] = "true", "disabled"
		objects = append(objects, space,
			role(ns, name,
				secrets([]string{"create"}), // not to be limited by name
				secrets([]string{"get", "list", "watch"}, mesh.CASecret, mesh.IntermediateSecret),
				secrets([]string{"update"}, mesh.IntermediateSecret)),
			binding(ns, name, "Role"))
	}
	if r.legacyRoots {
		const name = "garrison-citadel-legacy-roots"
		objects = append(objects,
			role(mesh.SystemNamespace, name, rbacv1.PolicyRule{
				APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{mesh.LegacyRootConfigMap},
				Verbs: []string{"list", "watch", "create", "patch"},
			}),
			binding(mesh.SystemNamespace, name, "Role"))
	}
	return objects, nil
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{
		TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"}, ObjectMeta: owned(namespace, name), Rules: rules,
	}
}

// binding gives a role to Citadel in one namespace.
func binding(namespace, name, kind string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: owned(namespace, name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: mesh.SystemNamespace, Name: mesh.ServerAccount(mesh.CitadelService)}},
	}
}

func owned(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{mesh.ManagedByLabel: mesh.ManagedBy}}
}
