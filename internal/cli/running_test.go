package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func runningPod(t *testing.T, pod string) running {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(pod))
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRunning(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A pod that runs is judged as it was when it was sent to be created.
func TestCreated(t *testing.T) {
	const spec = "containers: [{name: a, unknown: 1}]"
	for pod, want := range map[string]string{
		"{metadata: {name: a-x, generateName: a-, uid: b, resourceVersion: '1', managedFields: [], labels: {c: d}}, spec: {nodeName: node1, ephemeralContainers: [], " + spec + "}, status: {}}": "{metadata: {generateName: a-, labels: {c: d}}, spec: {" + spec + "}}",
		"{metadata: {name: a}, spec: {" + spec + "}}": "{metadata: {name: a}, spec: {" + spec + "}}",
	} {
		got, err := runningPod(t, pod).created()
		if err != nil {
			t.Fatal(err)
		}
		wanted, err := yaml.YAMLToJSON([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(wanted), string(got)); diff != "" {
			t.Errorf("%s: -want +got\n%s", pod, diff)
		}
	}
}

// Who makes a pod anew, and how.
func TestAnew(t *testing.T) {
	for owner, want := range map[string]string{
		"":                                    ": delete the pod and create it again: nothing makes another",
		"{kind: ReplicaSet, name: web-abc}":   "deployment/web: kubectl rollout restart deployment/web -n shop",
		"{kind: ReplicaSet, name: web}":       "replicaset/web: kubectl delete pod p -n shop: replicaset/web makes another",
		"{kind: StatefulSet, name: web}":      "statefulset/web: kubectl rollout restart statefulset/web -n shop",
		"{kind: Job, name: web}":              "job/web: let job/web end, or delete it and create it again",
		"{kind: SomethingElse, name: web}":    "somethingelse/web: kubectl delete pod p -n shop: somethingelse/web makes another",
		"{kind: DaemonSet, name: web, x: no}": "daemonset/web: kubectl rollout restart daemonset/web -n shop",
	} {
		owners := "[]"
		if owner != "" {
			owners = "[" + strings.TrimSuffix(owner, "}") + ", controller: true}]"
		}
		r := runningPod(t, "{metadata: {name: p, namespace: shop, labels: {pod-template-hash: abc}, ownerReferences: "+owners+"}, spec: {containers: [{name: a}]}}")
		if got := r.owner() + ": " + r.anew(); got != want {
			t.Errorf("%s: %s, want %s", owner, got, want)
		}
	}
}
