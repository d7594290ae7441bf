package manifests_test

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// last is one more object of each kind that the API server itself obeys and learns of by a
// watch, all about NAME, which nothing else is called.
const last = `
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: NAME}, rules: [{nonResourceURLs: [/NAME], verbs: [get]}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: NAME}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: NAME}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: NAME}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: NAME, namespace: default}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: NAME, namespace: default}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: NAME}]
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: NAME}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]
  validations: [{expression: "object.metadata.name != 'NAME'"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME, validationActions: [Deny]}
`

// inForce returns when the API server goes by all that was written and removed before of
// roles, policies and what binds them: it learns of each kind in the order of the writes, so
// it knows of them when it goes by the last.
func (l lab) inForce(t *testing.T) {
	t.Helper()
	name := "last-" + strings.ToLower(rand.Text()[:10])
	for text := range strings.SplitSeq(strings.ReplaceAll(last, "NAME", name), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		l.apply(t, u)
	}
	reviews := l.Resource(schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"})
	may := func(attributes string, of map[string]any) bool {
		t.Helper()
		review := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": map[string]any{"user": name, attributes: of},
		}}
		answer, err := reviews.Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed")
		return allowed
	}
	refused := object(t, &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: name},
	})
	eventually(t, "what was written is in force", func() bool {
		err := l.dryRun(t, configMaps, metav1.NamespaceDefault, refused)
		return err != nil && strings.Contains(err.Error(), fmt.Sprintf("ValidatingAdmissionPolicy '%s'", name)) &&
			may("nonResourceAttributes", map[string]any{"path": "/" + name, "verb": "get"}) &&
			may("resourceAttributes", map[string]any{"namespace": metav1.NamespaceDefault, "resource": "configmaps", "verb": "get"})
	})
}
