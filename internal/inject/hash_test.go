package inject

import "testing"

// TestHashOfOverrides: what the API server fills into the author's istio-proxy, anew for
// every pod, makes no other configuration; what the author writes does.
func TestHashOfOverrides(t *testing.T) {
	hash := func(fields string) string {
		t.Helper()
		injection, err := Edit(pod(t, "{metadata: {name: a}, spec: {containers: [{name: web}, {name: istio-proxy, "+fields+"}]}}"), Situation{}, settings(t))
		if err != nil {
			t.Fatal(err)
		}
		return injection.Hash
	}
	token := func(name string) string {
		return "volumeMounts: [{name: " + name + ", mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}]"
	}
	plain := hash("image: auto")
	for _, filled := range []string{
		token("kube-api-access-x7k2p"), "image: auto, " + token("kube-api-access-abcde"), "image: auto, imagePullPolicy: Always, resources: {}",
	} {
		if got := hash(filled); got != plain {
			t.Errorf("%s: %s, want %s", filled, got, plain)
		}
	}
	for _, written := range []string{token("own"), "resources: {limits: {cpu: '3'}}", "args: [proxy]"} {
		if hash(written) == plain {
			t.Errorf("%s: the same as without", written)
		}
	}
}
