package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// byLabel judges a pod by two labels of its own.
func byLabel(_ context.Context, pod *corev1.Pod) (Finding, error) {
	return Finding{LeftOut: strings.ReplaceAll(pod.Labels["left-out"], "-", " "), Drifted: pod.Labels["drifted"] != "", Meant: pod.Labels["meant"] != ""}, nil
}

func auditedPod(name string, owner *metav1.OwnerReference, labels map[string]string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: labels}}
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return pod
}

func controller(apiVersion, kind, name string) *metav1.OwnerReference {
	return &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: types.UID(name + "-uid"), Controller: new(true)}
}

// audited is a loop over pods that only a test knows.
func audited(t *testing.T, p PodAudit, objects ...runtime.Object) (*auditLoop, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	p.Judge, p.Log = byLabel, logger(t)
	l, err := newAuditLoop(&API{Client: client, metadata: fakeMetadata(t)}, p)
	if err != nil {
		t.Fatal(err)
	}
	return l, client
}

// later lets time pass, and all that was to happen in it.
func later(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// events returns what was written, as "kind/name message".
func events(t *testing.T, client *fake.Clientset) []string {
	t.Helper()
	list, err := client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range list.Items {
		found = append(found, fmt.Sprintf("%s/%s %s", e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Message))
	}
	slices.Sort(found)
	return found
}

// TestAuditTells holds who is told of a pod, and how often.
func TestAuditTells(t *testing.T) {
	left := map[string]string{"left-out": "hostNetwork"}
	set := func(name, uid string, owner *metav1.OwnerReference) *metav1.PartialObjectMetadata {
		m := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(uid)}
		if owner != nil {
			m.OwnerReferences = []metav1.OwnerReference{*owner}
		}
		return partial("apps/v1", "ReplicaSet", m)
	}
	replicaSet := controller("apps/v1", "ReplicaSet", "cart-1")
	finished := auditedPod("p", replicaSet, left)
	finished.Status.Phase = corev1.PodSucceeded
	going := auditedPod("p", nil, left)
	going.DeletionTimestamp, going.Finalizers = &metav1.Time{Time: time.Now()}, []string{"example.com/wait"}
	for name, c := range map[string]struct {
		pods   []runtime.Object
		sets   []runtime.Object
		refuse error // of the API server's, to whoever asks for a ReplicaSet
		want   []string
	}{
		"nothing wrong":         {pods: []runtime.Object{auditedPod("p", replicaSet, nil)}},
		"only drifted":          {pods: []runtime.Object{auditedPod("p", replicaSet, map[string]string{"drifted": "yes"})}},
		"of nobody":             {pods: []runtime.Object{auditedPod("p", nil, left)}, want: []string{"Pod/p pod p has no sidecar: hostNetwork"}},
		"of a node":             {pods: []runtime.Object{auditedPod("p", controller("v1", "Node", "n"), left)}, want: []string{"Pod/p pod p has no sidecar: hostNetwork"}},
		"of a Job":              {pods: []runtime.Object{auditedPod("p", controller("batch/v1", "Job", "j"), left)}, want: []string{"Job/j pod p has no sidecar: hostNetwork"}},
		"of a Deployment":       {pods: []runtime.Object{auditedPod("p", replicaSet, left)}, sets: []runtime.Object{set("cart-1", "cart-1-uid", controller("apps/v1", "Deployment", "cart"))}, want: []string{"Deployment/cart pod p has no sidecar: hostNetwork"}},
		"of a plain ReplicaSet": {pods: []runtime.Object{auditedPod("p", replicaSet, left)}, sets: []runtime.Object{set("cart-1", "cart-1-uid", nil)}, want: []string{"ReplicaSet/cart-1 pod p has no sidecar: hostNetwork"}},
		"ReplicaSet made anew":  {pods: []runtime.Object{auditedPod("p", replicaSet, left)}, sets: []runtime.Object{set("cart-1", "another", controller("apps/v1", "Deployment", "cart"))}, want: []string{"ReplicaSet/cart-1 pod p has no sidecar: hostNetwork"}},
		"ReplicaSet gone":       {pods: []runtime.Object{auditedPod("p", replicaSet, left)}, want: []string{"ReplicaSet/cart-1 pod p has no sidecar: hostNetwork"}},
		"no right to ask":       {pods: []runtime.Object{auditedPod("p", replicaSet, left)}, refuse: apierrors.NewForbidden(appsv1.Resource("replicasets"), "cart-1", nil), want: []string{"ReplicaSet/cart-1 pod p has no sidecar: hostNetwork"}},
		"a name that is a path": {pods: []runtime.Object{auditedPod("p", controller("apps/v1", "ReplicaSet", "../secrets"), left)}, refuse: errors.New("was asked"), want: []string{"ReplicaSet/../secrets pod p has no sidecar: hostNetwork"}},
		"finished":              {pods: []runtime.Object{finished}},
		"being deleted":         {pods: []runtime.Object{going}},
		"two for two reasons": {
			pods: []runtime.Object{auditedPod("p", controller("apps/v1", "DaemonSet", "d"), left), auditedPod("q", controller("apps/v1", "DaemonSet", "d"), map[string]string{"left-out": "windows"})},
			want: []string{"DaemonSet/d pod p has no sidecar: hostNetwork", "DaemonSet/d pod q has no sidecar: windows"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, client := audited(t, PodAudit{}, c.pods...)
				meta := fakeMetadata(t, c.sets...)
				if c.refuse != nil {
					meta.PrependReactor("get", "replicasets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, c.refuse })
				}
				l.api.metadata = meta
				run(t, l.run)
				later(time.Second)
				if diff := cmp.Diff(c.want, events(t, client)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestAuditIsSparing holds that many pods cost few requests, and that an Event that
// the API server has dropped comes back while the pod is still left out.
func TestAuditIsSparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pods []runtime.Object
		for owner := range 100 {
			for i := range 10 {
				pods = append(pods, auditedPod(fmt.Sprintf("p%d-%d", owner, i), controller("apps/v1", "DaemonSet", fmt.Sprint("d", owner)), map[string]string{"left-out": "hostNetwork"}))
			}
		}
		l, client := audited(t, PodAudit{}, pods...)
		creates := func() (n int) {
			for _, action := range client.Actions() {
				if action.Matches("create", "events") {
					n++
				}
			}
			return n
		}
		run(t, l.run)
		later(time.Second)
		if n := creates(); n < tellBurst || n > tellBurst+tellQPS {
			t.Errorf("%d Events written at once", n)
		}
		later(2 * time.Minute)
		if n := creates(); n != 100 || len(events(t, client)) != 100 {
			t.Errorf("%d Events written for 100 owners", n)
		}
		list, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if err := client.CoreV1().Events("shop").Delete(t.Context(), e.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		later(2 * defaultResync)
		if n := len(events(t, client)); n != 100 {
			t.Errorf("%d Events came back", n)
		}
		if n := creates(); n > 500 {
			t.Errorf("%d requests in %v", n, 2*defaultResync)
		}
	})
}

// TestAuditCounts holds that the gauges follow the pods and the words on Again, and
// end with the term; an Event that cannot be written keeps no count from it.
func TestAuditCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		again := make(chan struct{}, 1)
		metrics := prometheus.NewRegistry()
		var strict, away atomic.Bool
		client := fake.NewClientset(
			auditedPod("a", nil, nil), auditedPod("b", nil, map[string]string{"left-out": "x"}),
			auditedPod("c", nil, map[string]string{"left-out": "x", "drifted": "y"}), auditedPod("d", nil, map[string]string{"drifted": "y"}),
			auditedPod("e", nil, map[string]string{"left-out": "x", "meant": "y"})) // told, not counted
		client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("etcd is full")
		})
		stop := run(t, (&API{Client: client, metadata: fakeMetadata(t)}).AuditPods(PodAudit{
			Judge: func(ctx context.Context, pod *corev1.Pod) (Finding, error) {
				finding, err := byLabel(ctx, pod)
				pod.Labels = nil // it is the judge's own
				if strict.Load() {
					finding.Drifted = true
				}
				if away.Load() {
					return Finding{}, errors.New("the namespace cannot be read now")
				}
				return finding, err
			},
			Again: again, Metrics: metrics, Log: logger(t),
		}))
		expect := func(leftOut, drifted int) {
			t.Helper()
			later(time.Second)
			want := fmt.Sprintf(`
# HELP injector_pods_drifted Pods that would be made differently by today's configuration, as the leader sees them.
# TYPE injector_pods_drifted gauge
injector_pods_drifted %d
# HELP injector_pods_left_out Pods without a sidecar whose namespace wants one and that nobody exempted, as the leader sees them.
# TYPE injector_pods_left_out gauge
injector_pods_left_out %d
`, drifted, leftOut)
			if err := testutil.GatherAndCompare(metrics, strings.NewReader(want)); err != nil {
				t.Error(err)
			}
		}
		expect(2, 2)
		pods := client.CoreV1().Pods("shop")
		if err := pods.Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(1, 1)
		done := auditedPod("b", nil, map[string]string{"left-out": "x"})
		done.Status.Phase = corev1.PodFailed
		if _, err := pods.Update(t.Context(), done, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(0, 1)
		strict.Store(true)
		again <- struct{}{}
		expect(0, 3) // a, d and e
		away.Store(true)
		strict.Store(false)
		again <- struct{}{}
		expect(0, 3) // as far as is known
		away.Store(false)
		later(2 * lastRetry)
		expect(0, 1)
		stop()
		expect(0, 0)
	})
}

func testAuditPods(t *testing.T, l lab) {
	const ns = "audit"
	l.namespace(t, ns, nil)
	l.account(t, ns, "default")
	api := l.as(t, allow("", "pods", "list watch"), allow("apps", "replicasets", "get"), allow("", "events", "create"))
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "cart"}}, Spec: testPod().Spec}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	apps, core := l.admin.Client.AppsV1(), l.admin.Client.CoreV1()
	// What controllers would make, of which none runs here.
	deployment, err := apps.Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "cart"}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := apps.ReplicaSets(ns).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "cart-1", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(deployment, appsv1.SchemeGroupVersion.WithKind("Deployment"))}},
		Spec:       appsv1.ReplicaSetSpec{Selector: selector, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := func(name string) {
		t.Helper()
		p := testPod()
		p.Name, p.Labels = name, map[string]string{"app": "cart", "left-out": "it-asks-for-the-network-of-its-node"}
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		if _, err := core.Pods(ns).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pod("cart-1-a")
	metrics := prometheus.NewRegistry()
	stop := run(t, api.AuditPods(PodAudit{Judge: byLabel, Log: logger(t), Metrics: metrics}))
	leftOut := func(want float64) {
		t.Helper()
		within(t, func() error {
			families, err := metrics.Gather()
			if err != nil {
				return err
			}
			for _, f := range families {
				if got := f.GetMetric()[0].GetGauge().GetValue(); f.GetName() == "injector_pods_left_out" && got != want {
					return fmt.Errorf("%v left out, want %v", got, want)
				}
			}
			return nil
		})
	}
	leftOut(1)
	pod("cart-1-b") // while it watches
	leftOut(2)
	var found []corev1.Event
	within(t, func() error {
		list, err := core.Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=SidecarMissing,involvedObject.uid=" + string(deployment.UID)})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("no Event on the Deployment")
		}
		found = list.Items
		return err
	})
	if e := found[0]; len(found) != 1 || e.Type != corev1.EventTypeWarning || e.Source.Component != "garrison-injector" || e.InvolvedObject.Kind != "Deployment" ||
		e.InvolvedObject.APIVersion != "apps/v1" || !strings.HasSuffix(e.Message, " has no sidecar: it asks for the network of its node") {
		t.Errorf("%d Events, the first: %+v", len(found), e)
	}
	// The next leader finds the Event there.
	stop()
	l2, err := newAuditLoop(api, PodAudit{Judge: byLabel, Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := l2.tell(context.WithoutCancel(t.Context()), "cart-1-b", ownerOfPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}}}),
		"it asks for the network of its node"); err != nil {
		t.Error(err)
	}
	if list, err := core.Events(ns).List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("%d Events, %v", len(list.Items), err)
	}
}
