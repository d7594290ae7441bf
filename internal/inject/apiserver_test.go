package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// refusedBare are the cases that an API server refuses as they are, with what it says:
// they show what injection makes of such a pod, since it is asked first.
var refusedBare = map[string]string{
	"no-containers":          "spec.containers: Required value",
	"overrides-twice":        `spec.initContainers[0].name: Duplicate value: "istio-proxy"`,
	"probes-kinds":           "spec.initContainers[0].lifecycle: Forbidden",
	"probes-left":            "spec.containers[1].ports[1].containerPort: Required value",
	"prometheus":             `metadata.annotations: Invalid value: "prometheus_io/path"`,
	"sidecar-volumes-shared": `spec.containers[0].volumeMounts[0].name: Not found: "istio-envoy"`,
	"wrong-type":             "cannot unmarshal object into Go struct field PodSpec.spec.containers",
}

// TestAPIServer holds every case, and random pods, to a real API server: it takes what
// injection makes of them, and what it makes of that with its defaults is still injected
// as far as injection is concerned. What it refuses bare has no more wrong with it once
// it is injected.
func TestAPIServer(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN")))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 1000, 1000
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	const ns = "laws"
	_, err = client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range []string{"default", "sleep"} {
		_, err := client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	// create says what the API server would store.
	create := func(t *testing.T, raw []byte) ([]byte, error) {
		t.Helper()
		pod, err := completed(raw)
		if err != nil {
			return nil, err
		}
		stored, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return nil, err
		}
		out, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		return out, nil
	}
	accepted, refused := 0, 0
	all := cases(t)
	for seed := range uint64(100) {
		all = append(all, randomCase(t, seed))
	}
	for _, c := range all {
		name := strings.TrimSuffix(filepath.Base(c.name), ".txtar")
		t.Run(name, func(t *testing.T) {
			as, asErr := c.inject(c.pod)
			before, err := create(t, c.pod)
			if says := refusedBare[name]; says != "" {
				refused++
				if err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("bare: %v, want %s", err, says)
				}
				if asErr == nil && as.skipped == "" {
					if _, after := create(t, as.pod); complaints(after) > complaints(err) {
						t.Errorf("refused bare: %v\nonce it is injected: %v", err, after)
					}
				}
				return
			}
			if err != nil {
				t.Fatalf("refused bare: %v", err)
			}
			// As the webhook is asked: with the API server's defaults.
			r, err := c.inject(before)
			if fmt.Sprint(err) != fmt.Sprint(asErr) || r.skipped != as.skipped {
				t.Fatalf("with the API server's defaults: %q, %v; without: %q, %v", r.skipped, err, as.skipped, asErr)
			}
			if err != nil || r.skipped != "" {
				return
			}
			after, err := create(t, r.pod)
			if err != nil {
				t.Fatalf("refused once it is injected: %v", err)
			}
			accepted++
			if again, err := c.inject(after); err != nil || len(again.Ops) != 0 {
				t.Errorf("as the API server has it, injected again: %v, %v", again.Ops, err)
			}
		})
	}
	if accepted < 100 || refused != len(refusedBare) {
		t.Errorf("only %d cases were accepted, and %d refused bare of %d that are named", accepted, refused, len(refusedBare))
	}
}

// completed fills in what is missing of a pod that is there to show something else.
func completed(raw []byte) (*corev1.Pod, error) {
	var pod corev1.Pod
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &pod); err != nil {
		return nil, err
	}
	pod.Namespace = "" // that of the request
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Image == "" {
				list[i].Image = "none"
			}
		}
	}
	for i := range pod.OwnerReferences {
		o := &pod.OwnerReferences[i]
		if o.APIVersion == "" {
			o.APIVersion = "batch/v1"
		}
		if o.UID == "" {
			o.UID = "00000000-0000-4000-8000-000000000000"
		}
	}
	return &pod, nil
}

// complaints counts what the API server has against a pod.
func complaints(err error) int {
	refusal, ok := errors.AsType[*apierrors.StatusError](err)
	switch {
	case err == nil:
		return 0
	case !ok || refusal.ErrStatus.Details == nil:
		return 1
	}
	return max(1, len(refusal.ErrStatus.Details.Causes))
}
