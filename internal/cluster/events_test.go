package cluster

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testWarnOfSecret holds that a warning is one Event, whoever writes it and however
// often, on the Secret where there is one.
func testWarnOfSecret(t *testing.T, l lab) {
	const ns = "warnings"
	l.namespace(t, ns, nil)
	secret, err := l.admin.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	api := l.as(t, allow("", "secrets", "get", "ca", "gone"), allow("", "events", "create"))
	w := SecretWarning{Namespace: ns, Secret: "ca", ID: "certificate-ends.0123.30d", Reason: "CertificateEnds", Message: "soon"}
	for range 3 {
		if err := api.WarnOfSecret(t.Context(), w); err != nil {
			t.Error(err)
		}
	}
	w.Secret, w.ID = "gone", "certificate-ends.0123.7d"
	if err := api.WarnOfSecret(t.Context(), w); err != nil {
		t.Error(err)
	}
	list, err := l.admin.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 {
		t.Fatalf("%d Events", len(list.Items))
	}
	e := list.Items[0] // by name
	if e.Name != "certificate-ends.0123.30d" || e.Type != corev1.EventTypeWarning || e.InvolvedObject.UID != secret.UID ||
		e.InvolvedObject.Kind != "Secret" || e.Reason != "CertificateEnds" || e.Message != "soon" || e.Source.Component != "garrison-citadel" {
		t.Errorf("%+v", e)
	}
	if gone := list.Items[1].InvolvedObject; gone.Name != "gone" || gone.UID != "" {
		t.Errorf("%+v", gone)
	}
}
