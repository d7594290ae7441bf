package cluster

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// What is read once is what the watches show.
func TestReadOnce(t *testing.T) {
	client := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: "shop", Labels: map[string]string{"a": "b"},
			Annotations: map[string]string{"sidecar.istio.io/proxyCPU": "1", "other": "x"},
		}},
		node("new", "v1.33.0"), node("old", "v1.32.9"), node("unknown", ""),
	)
	ns, err := ReadNamespace(t.Context(), client, "shop")
	want := mesh.Namespace{Name: "shop", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"sidecar.istio.io/proxyCPU": "1"}}
	if diff := cmp.Diff(want, ns); err != nil || diff != "" {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	if ns, err := ReadNamespace(t.Context(), client, "none"); !apierrors.IsNotFound(err) {
		t.Errorf("%v, %v", ns, err)
	}
	older, err := ReadOlder(t.Context(), client, 33)
	if err != nil || len(older) != 2 || older[0].Name != "old" || older[1].Name != "unknown" {
		t.Errorf("%v, %v", older, err)
	}
}
