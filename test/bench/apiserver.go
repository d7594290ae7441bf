package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/test/exposition"
)

// waitGoal is how long the API server may wait for the injector, in ms.
const waitGoal = 1.5

// apiserver measures how long the API server of a cluster waits for the injector
// installed there, by its own account, and how long its clients wait for a pod with a
// sidecar and for one without. The pods are created by dry run.
func (b bench) apiserver(ctx context.Context) (err error) {
	if b.plan.kubeconfig == "" {
		return missing("KUBECONFIG, to name a cluster with Garrison installed")
	}
	client, err := connect(b.plan.kubeconfig)
	if err != nil {
		return err
	}
	var namespaces []string // with a sidecar and without
	for _, injection := range []string{"enabled", "disabled"} {
		name, remove, err := newNamespace(ctx, client, injection)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
		namespaces = append(namespaces, name)
	}
	if err := accounts(ctx, client, namespaces); err != nil {
		return err
	}
	for i, ns := range namespaces { // the first of each pays for connections
		pod, err := dryRun(ctx, client, ns)
		if err != nil {
			return err
		}
		if injected := hasProxy(pod); injected != (i == 0) {
			return missing(fmt.Sprintf("an injector on the cluster: in namespace %s a pod came back with a sidecar: %t", ns, injected))
		}
	}
	before, err := webhookWait(ctx, client, mesh.InjectorWebhookSuffix)
	if err != nil {
		return err
	}
	outcomes, err := inTurn(ctx, client, b.plan.creates, namespaces)
	if err != nil {
		return err
	}
	after, err := webhookWait(ctx, client, mesh.InjectorWebhookSuffix)
	if err != nil {
		return err
	}
	calls := after.count - before.count
	if calls < float64(b.plan.creates) {
		return fmt.Errorf("the API server counts %.0f calls of the webhook after %d pods: another one answers for its metrics", calls, b.plan.creates)
	}
	b.report(
		figure{name: "apiserver.webhook.calls", values: []float64{calls / float64(b.plan.creates)}, unit: "per-pod"},
		figure{name: "apiserver.webhook.mean", values: []float64{before.mean(after)}, unit: "ms", goal: waitGoal},
	)
	for i, kind := range []string{"injected", "plain"} {
		s := sample{outcome: outcomes[i]}
		b.report(
			figure{name: "apiserver." + kind + ".p50", values: []float64{p50(s)}, unit: "ms"},
			figure{name: "apiserver." + kind + ".p99", values: []float64{p99(s)}, unit: "ms"},
		)
	}
	return nil
}

// inTurn creates so many pods in each namespace, in turn, and returns what the client
// saw of each.
func inTurn(ctx context.Context, client kubernetes.Interface, creates int, namespaces []string) ([]outcome, error) {
	outcomes := make([]outcome, len(namespaces))
	for range creates {
		for i, ns := range namespaces {
			begin := time.Now()
			if _, err := dryRun(ctx, client, ns); err != nil {
				return nil, err
			}
			outcomes[i].latencies = append(outcomes[i].latencies, time.Since(begin))
		}
	}
	for _, o := range outcomes {
		slices.Sort(o.latencies)
	}
	return outcomes, nil
}

// newNamespace makes a namespace. remove takes it away, without waiting until it is
// gone.
func newNamespace(ctx context.Context, client kubernetes.Interface, injection string) (name string, remove func() error, err error) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "bench-", Labels: map[string]string{mesh.InjectionLabel: injection},
	}}
	if ns, err = client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return "", nil, err
	}
	return ns.Name, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{})
	}, nil
}

// accounts waits for the service account of each namespace, without which no pod is
// taken.
func accounts(ctx context.Context, client kubernetes.Interface, namespaces []string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for _, ns := range namespaces {
		for {
			_, err := client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return err
			case <-again.C:
			}
		}
	}
	return nil
}

// dryRun has the API server make the small pod, but for keeping it.
func dryRun(ctx context.Context, client kubernetes.Interface, namespace string) (*corev1.Pod, error) {
	c := container("sleep", 0)
	c.VolumeMounts = nil // the API server adds its own
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "sleep-", Labels: map[string]string{"app": "sleep"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{c}},
	}
	return client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

func hasProxy(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		return c.Name == mesh.ProxyContainer
	})
}

// total is a histogram without its buckets.
type total struct{ sum, count float64 }

// mean returns the mean, in ms, of what came between two looks at a histogram of
// seconds.
func (t total) mean(later total) float64 { return (later.sum - t.sum) * 1000 / (later.count - t.count) }

// webhookWait returns how long the API server has waited for the webhooks whose names
// end as given.
func webhookWait(ctx context.Context, client *kubernetes.Clientset, suffix string) (total, error) {
	text, err := client.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return total{}, fmt.Errorf("metrics of the API server: %w", err)
	}
	const metric = "apiserver_admission_webhook_admission_duration_seconds"
	return total{
		sum:   exposition.Sum(text, metric+"_sum", suffix+`"`),
		count: exposition.Sum(text, metric+"_count", suffix+`"`),
	}, nil
}
