package inject

import (
	"maps"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// SelfTest is where a pod is selected by one entry of a webhook configuration, and by no
// other: sent there by dry run, it shows whether that entry works.
type SelfTest struct {
	Webhook, Entry string            // their names
	Namespace      string            // one of those that are made for this
	Labels         map[string]string // of the pod
}

// SelfTests returns one test for each entry that the injector of a revision is called by,
// given the configurations that are labelled with the revision. Those that are switched
// off need none, and entries that no rendering of ours has get none. What should be there
// and is not gets one, and will fail it: every entry of a configuration of ours, and the
// revision's own configuration where it serves by no tag or is the default.
func SelfTests(revision string, installed []admissionregistrationv1.MutatingWebhookConfiguration) []SelfTest {
	own := Webhook{Revision: revision}
	if revision == mesh.DefaultRevision {
		own.Revision = ""
	}
	missing := !slices.ContainsFunc(installed, func(c admissionregistrationv1.MutatingWebhookConfiguration) bool { return c.Name == own.name() })
	if missing && (own.isDefault() || len(installed) == 0) {
		installed = append(slices.Clip(installed), *own.configuration())
	}
	var tests []SelfTest
	for _, c := range installed {
		w := Webhook{Revision: own.Revision, Tag: c.Labels[tagLabel]}
		held := map[string]admissionregistrationv1.MutatingWebhook{}
		for _, e := range c.Webhooks {
			held[e.Name] = e
		}
		_, w.NamespacesByDefault = held[autoEntry+mesh.InjectorWebhookSuffix]
		for _, e := range w.entries() {
			if !off(held[e.Name]) {
				namespace, labels := w.selected(e.Name)
				tests = append(tests, SelfTest{Webhook: c.Name, Entry: e.Name, Namespace: namespace, Labels: labels})
			}
		}
	}
	return tests
}

// off says whether an entry is one of [Webhook.Neutral].
func off(e admissionregistrationv1.MutatingWebhook) bool {
	return e.NamespaceSelector != nil && slices.ContainsFunc(e.NamespaceSelector.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool {
		return r.Key == impossible().Key && r.Operator == impossible().Operator
	})
}

// selected says where and with which labels a pod is selected by an entry alone.
func (w Webhook) selected(entry string) (namespace string, labels map[string]string) {
	switch strings.TrimSuffix(entry, mesh.InjectorWebhookSuffix) {
	case namespaceEntry:
		return mesh.SelfTestEnabledNamespace, nil
	case objectEntry:
		return mesh.SelfTestNamespace, map[string]string{mesh.InjectLabel: "true"}
	case revNamespaceEntry:
		return mesh.SelfTestRevisionNamespace(w.word()), nil
	case revObjectEntry:
		return mesh.SelfTestNamespace, map[string]string{mesh.RevisionLabel: w.word()}
	}
	return mesh.SelfTestNamespace, nil // autoEntry
}

// selfTestObjects renders what [SelfTests] needs besides manifests/base/selftest.yaml and,
// for mesh.SelfTestNamespace, hack/revision: the namespace of a revision or tag, which the
// default has already, and the right to try pods out. They are those of that file.
func (w Webhook) selfTestObjects() []runtime.Object {
	if !w.isDefault() {
		namespace := &corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: mesh.SelfTestRevisionNamespace(w.word()), Labels: w.labels()},
		}
		maps.Copy(namespace.Labels, map[string]string{
			mesh.RevisionLabel:                   w.word(),
			mesh.SelfTestLabel:                   "true",
			"pod-security.kubernetes.io/enforce": "restricted",
			"pod-security.kubernetes.io/audit":   "restricted",
			"pod-security.kubernetes.io/warn":    "restricted",
		})
		return append([]runtime.Object{namespace}, w.selfTestRight(namespace.Name)...)
	}
	return append(w.selfTestRight(mesh.SelfTestEnabledNamespace), w.selfTestRight(mesh.SelfTestRevisionNamespace(w.word()))...)
}

func (w Webhook) selfTestRight(namespace string) []runtime.Object {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "garrison-" + w.name(), Labels: w.labels()}
	return []runtime.Object{
		&rbacv1.Role{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
			ObjectMeta: meta,
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"create"}}},
		},
		&rbacv1.RoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
			Subjects:   w.subjects(),
		},
	}
}
