package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/test/exposition"
)

// flood NAMESPACE COUNT CLIENTS creates pods as fast as the API server takes them from
// so many clients. No node runs them: they wait behind a scheduling gate. Each must be
// there at the end, with its sidecar. What it says is how long the pods took, and how
// much of that was the injector's, by its own account and by the API server's.
func flood(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: flood namespace count clients")
	}
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	clients, err := strconv.Atoi(args[2])
	ts.Check(err)
	config, err := clientcmd.BuildConfigFromFlags("", ts.Getenv("KUBECONFIG"))
	ts.Check(err)
	config.QPS = -1 // as fast as it is answered
	client, err := kubernetes.NewForConfig(config)
	ts.Check(err)
	pods := client.CoreV1().Pods(args[0])

	before := injectionTimes(ts)
	var (
		wg      sync.WaitGroup
		sent    atomic.Int64
		each    = make([][]time.Duration, clients)
		ctx, no = context.WithCancelCause(context.Background())
		begin   = time.Now()
	)
	defer no(nil)
	for i := range clients {
		wg.Go(func() {
			for ctx.Err() == nil && int(sent.Add(1)) <= count {
				took, err := createGated(ctx, pods.Create)
				if err != nil {
					no(err)
					return
				}
				each[i] = append(each[i], took)
			}
		})
	}
	wg.Wait()
	all := time.Since(begin)
	ts.Check(context.Cause(ctx))

	there, err := pods.List(ctx, metav1.ListOptions{Limit: 1})
	ts.Check(err)
	if left := there.RemainingItemCount; len(there.Items) != 1 || left == nil || *left != int64(count-1) {
		ts.Fatalf("flood: %d pods and %v more in %s, want %d", len(there.Items), left, args[0], count)
	}
	latencies := slices.Sorted(slices.Values(slices.Concat(each...)))
	quantile := func(q float64) time.Duration {
		return latencies[int(q*float64(len(latencies)-1))].Round(time.Microsecond)
	}
	after := injectionTimes(ts)
	ts.Logf("%d pods in %v, %.0f a second, by %d clients; created in p50 %v p99 %v max %v",
		count, all.Round(time.Millisecond), float64(count)/all.Seconds(), clients, quantile(0.50), quantile(0.99), quantile(1))
	for _, who := range []string{"injector", "API server"} {
		calls := after[who].calls - before[who].calls
		if calls < float64(count) {
			ts.Fatalf("flood: %s counts %.0f injections of %d", who, calls, count)
		}
		ts.Logf("injection by the account of the %s: %.0f, mean %.3f ms", who, calls, (after[who].seconds-before[who].seconds)*1000/calls)
	}
}

type createPod func(context.Context, *corev1.Pod, metav1.CreateOptions) (*corev1.Pod, error)

// createGated creates a pod that no node gets, and wants its sidecar in it.
func createGated(ctx context.Context, create createPod) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "flood-", Labels: map[string]string{"app": "flood"}},
		Spec: corev1.PodSpec{
			SchedulingGates: []corev1.PodSchedulingGate{{Name: "example.com/never"}},
			Containers:      []corev1.Container{{Name: "sleep", Image: "docker.io/curlimages/curl", Command: []string{"sleep", "infinity"}}},
		},
	}
	begin := time.Now()
	made, err := create(ctx, pod, metav1.CreateOptions{})
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	isProxy := func(c corev1.Container) bool { return c.Name == mesh.ProxyContainer }
	if !slices.ContainsFunc(slices.Concat(made.Spec.InitContainers, made.Spec.Containers), isProxy) {
		return 0, fmt.Errorf("pod %s was created without a sidecar", made.Name)
	}
	return took, nil
}

// spent is how often something was done, and how long it took.
type spent struct{ calls, seconds float64 }

// injectionTimes returns what injections took since the servers started.
func injectionTimes(ts *testscript.TestScript) map[string]spent {
	times := map[string]spent{}
	add := func(who, path, metric string, labels ...string) {
		text := []byte(kubectl(ts, "get", "--raw", path))
		s := times[who]
		s.calls += exposition.Sum(text, metric+"_count", labels...)
		s.seconds += exposition.Sum(text, metric+"_sum", labels...)
		times[who] = s
	}
	add("API server", "/metrics", "apiserver_admission_webhook_admission_duration_seconds", mesh.InjectorWebhookSuffix+`"`)
	names := kubectl(ts, "-n", mesh.SystemNamespace, "get", "pods", "-l", "app=injector", "-o", "jsonpath={.items[*].metadata.name}")
	for name := range strings.FieldsSeq(names) {
		path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", mesh.SystemNamespace, name, mesh.MonitorPort)
		add("injector", path, "sidecar_injection_time_seconds")
	}
	return times
}
