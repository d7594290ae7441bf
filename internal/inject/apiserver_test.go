package inject

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// TestAPIServer holds every case, and random pods, to a real API server: where it takes a pod, it takes
// what injection makes of it, and what it makes of that with its defaults is still
// injected as far as injection is concerned.
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
	if err == nil {
		_, err = client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	// create says what the API server would store. What is missing of a pod that is there
	// to show something else is filled in.
	create := func(t *testing.T, raw []byte) ([]byte, error) {
		t.Helper()
		var pod corev1.Pod
		if err := json.Unmarshal(raw, &pod); err != nil {
			return nil, err
		}
		pod.Namespace = ns
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
		stored, err := client.CoreV1().Pods(ns).Create(t.Context(), &pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return nil, err
		}
		out, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		return out, nil
	}
	accepted := 0
	all := cases(t)
	for seed := range uint64(100) {
		all = append(all, randomCase(t, seed))
	}
	for _, c := range all {
		t.Run(strings.TrimSuffix(filepath.Base(c.name), ".txtar"), func(t *testing.T) {
			before, err := create(t, c.pod)
			if err != nil {
				return // the API server, or its types, have a reason of their own
			}
			// As the webhook is asked: with the API server's defaults.
			r, err := c.inject(before)
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
	if accepted < 100 {
		t.Errorf("only %d cases were accepted: nothing was proved", accepted)
	}
}
