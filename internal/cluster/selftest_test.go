package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func testPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "self-test"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "none"}}},
	}
}

// trial is a pod in a namespace, for an entry.
func trial(webhook, entry, ns string) Trial {
	pod := testPod()
	pod.Namespace = ns
	return Trial{Webhook: webhook, Entry: entry, Pod: pod}
}

var errNoSidecar = errors.New("no container istio-proxy")

func hasSidecar(pod *corev1.Pod) error {
	for _, c := range pod.Spec.Containers {
		if c.Name == "istio-proxy" {
			return nil
		}
	}
	return errNoSidecar
}

// TestSelfTest holds that what fails is tried again with growing pauses, that what
// passes is tried again in ten minutes, and that only news are logged.
func TestSelfTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		start := time.Now()
		var mu sync.Mutex
		var tries []time.Duration
		take := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			taken := tries
			tries = nil
			return taken
		}
		broken := func() bool {
			since := time.Since(start)
			return since < time.Hour || since > 2*time.Hour && since < 3*time.Hour
		}
		client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			create := action.(clienttesting.CreateActionImpl)
			if diff := cmp.Diff([]string{metav1.DryRunAll}, create.CreateOptions.DryRun); diff != "" || create.GetNamespace() != "here" {
				t.Errorf("in %s, dry run %s", create.GetNamespace(), diff)
			}
			mu.Lock()
			tries = append(tries, time.Since(start))
			mu.Unlock()
			pod := create.Object.(*corev1.Pod).DeepCopy()
			if !broken() {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "istio-proxy"})
			}
			return true, pod, nil
		})
		var lines bytes.Buffer
		metrics := prometheus.NewRegistry()
		stop := run(t, (&API{Client: client}).SelfTest(SelfTest{
			Trials: func([]registrationv1.MutatingWebhookConfiguration) []Trial {
				return []Trial{trial("hook", "first", "here")}
			},
			Check: hasSidecar, Log: slog.New(slog.NewTextHandler(&lines, nil)), Metrics: metrics,
		}))
		expect := func(passing float64, passed time.Time) {
			t.Helper()
			want := fmt.Sprintf(`
# HELP injector_self_test 1 if the API server, when last asked, gave the sidecar to a pod sent by dry run that this entry of the webhook selects, else 0.
# TYPE injector_self_test gauge
injector_self_test{entry="first",webhook="hook"} %v
# HELP injector_self_test_passed_seconds When that was last so, in seconds since 1970; 0 if never.
# TYPE injector_self_test_passed_seconds gauge
injector_self_test_passed_seconds{entry="first",webhook="hook"} %v
`, passing, float64(max(passed.Unix(), 0)))
			if err := testutil.GatherAndCompare(metrics, strings.NewReader(want)); err != nil {
				t.Error(err)
			}
		}
		later(59 * time.Minute)
		expect(0, time.Time{})
		failing := take()
		if n := len(failing); n < 55 || n > 75 {
			t.Errorf("tried %d times in an hour", n)
		}
		if first := failing[1] - failing[0]; first > 2*time.Second {
			t.Errorf("the second try came %v after the first", first)
		}
		later(58 * time.Minute)
		passing := take()
		if n := len(passing); n < 5 || n > 8 {
			t.Errorf("tried %d times in an hour of success", n)
		}
		last := start.Add(passing[len(passing)-1])
		expect(1, last)
		later(20 * time.Minute)
		for _, at := range take() {
			if at < 2*time.Hour {
				last = start.Add(at)
			}
		}
		expect(0, last)
		later(time.Hour)
		stop()
		if got, want := strings.Count(lines.String(), "\n"), 4; got != want || strings.Count(lines.String(), errNoSidecar.Error()) != 2 {
			t.Errorf("%d lines, want %d:\n%s", got, want, &lines)
		}
	})
}

// TestSelfTestEntries holds that each entry has its own result, by its name in metrics and
// log, that entries come and go with the configurations of the revision, and that nothing
// passes while those cannot be read.
func TestSelfTestEntries(t *testing.T) {
	client := fake.NewClientset()
	hooks := client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	install := func(name, revision string, entries ...string) {
		t.Helper()
		c := &registrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"istio.io/rev": revision, "app.kubernetes.io/managed-by": "garrison"},
		}}
		for _, e := range entries {
			c.Webhooks = append(c.Webhooks, registrationv1.MutatingWebhook{Name: e})
		}
		if _, err := hooks.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	broken, unreadable := map[string]bool{}, false
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		pod := action.(clienttesting.CreateActionImpl).Object.(*corev1.Pod).DeepCopy()
		if !broken[pod.Namespace] {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "istio-proxy"})
		}
		return true, pod, nil
	})
	client.PrependReactor("list", "mutatingwebhookconfigurations", func(clienttesting.Action) (bool, runtime.Object, error) {
		return unreadable, nil, apierrors.NewTooManyRequestsError("later")
	})
	var lines bytes.Buffer
	metrics := prometheus.NewRegistry()
	s, err := newSelfTester(&API{Client: client}, SelfTest{
		Revision: "canary", Check: hasSidecar, Log: slog.New(slog.NewTextHandler(&lines, nil)), Metrics: metrics,
		Trials: func(installed []registrationv1.MutatingWebhookConfiguration) (all []Trial) {
			for _, c := range installed {
				for _, e := range c.Webhooks {
					all = append(all, trial(c.Name, e.Name, c.Name+"-"+e.Name))
				}
			}
			return all
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(results map[string]float64, logged ...string) {
		t.Helper()
		s.report(t.Context(), s.test(t.Context()))
		got := map[string]float64{}
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "injector_self_test" {
					got[m.GetLabel()[1].GetValue()+"/"+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
				}
			}
		}
		if diff := cmp.Diff(results, got); diff != "" {
			t.Error(diff)
		}
		var said []string
		for line := range strings.Lines(lines.String()) {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "msg=")
			said = append(said, line)
		}
		lines.Reset()
		if diff := cmp.Diff(logged, said); diff != "" {
			t.Error(diff)
		}
	}
	expect(map[string]float64{})
	install("hook", "canary", "a", "b")
	install("other", "default", "a")
	expect(map[string]float64{"hook/a": 1, "hook/b": 1}, `"self-test passed" entries=2`)
	broken["hook-b"] = true
	expect(map[string]float64{"hook/a": 1, "hook/b": 0},
		`"self-test failed" webhook=hook entry=b namespace=hook-b err="the pod came back otherwise than it should: no container istio-proxy"`)
	install("tag", "canary", "a")
	expect(map[string]float64{"hook/a": 1, "hook/b": 0, "tag/a": 1})
	broken["hook-b"] = false
	expect(map[string]float64{"hook/a": 1, "hook/b": 1, "tag/a": 1}, `"self-test passed" entries=3`)
	unreadable = true
	const why = `err="the webhook configurations cannot be read: Too many requests: later"`
	expect(map[string]float64{"hook/a": 0, "hook/b": 0, "tag/a": 0},
		`"self-test failed" webhook=hook entry=a namespace=hook-a `+why, `"self-test failed" webhook=hook entry=b namespace=hook-b `+why,
		`"self-test failed" webhook=tag entry=a namespace=tag-a `+why)
	unreadable = false
	if err := hooks.Delete(t.Context(), "hook", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(map[string]float64{"tag/a": 1}, `"self-test passed" entries=1`)
}

// What can be in its way, as a real API server says it, and what it is then told.
func testSelfTest(t *testing.T, l lab) {
	const ns = "self-test"
	api := l.as(t, allow("", "events", "create"))
	only := trial(ns, "self-test.example.com", ns)
	test := SelfTest{Check: hasSidecar, Trials: func([]registrationv1.MutatingWebhookConfiguration) []Trial { return []Trial{only} }}
	expect := func(want string) {
		t.Helper()
		within(t, func() error {
			err := api.try(t.Context(), only.Pod, hasSidecar)
			if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
				return fmt.Errorf("got %w, want %s", err, want)
			}
			return nil
		})
	}
	expect("the right to create pods in namespace self-test is missing")
	l.also(t, allow("", "pods", "create"))
	expect("there is no namespace self-test")
	l.namespace(t, ns, map[string]string{"self-test": "yes", "pod-security.kubernetes.io/enforce": "privileged"})
	expect("the pod is not admitted: pods \"self-test\" is forbidden: error looking up service account")
	l.account(t, ns, "default")
	expect("the pod came back otherwise than it should: no container istio-proxy")

	answer := atomic.Pointer[func(*admissionv1.AdmissionResponse)]{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review := admissionv1.AdmissionReview{}
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID}
		(*answer.Load())(review.Response)
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	hook := &registrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Webhooks: []registrationv1.MutatingWebhook{{
			Name: "self-test.example.com", AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      registrationv1.WebhookClientConfig{URL: &server.URL, CABundle: certificate(t)},
			SideEffects:       new(registrationv1.SideEffectClassNone),
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"self-test": "yes"}},
			Rules: []registrationv1.RuleWithOperations{{
				Operations: []registrationv1.OperationType{registrationv1.Create},
				Rule:       registrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}},
	}
	hooks := l.admin.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	hook, err := hooks.Create(t.Context(), hook, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := hooks.Delete(context.Background(), ns, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	expect("the API server cannot ask the webhook")
	deny := func(r *admissionv1.AdmissionResponse) { r.Result = &metav1.Status{Message: "no pods today"} }
	answer.Store(&deny)
	hook.Webhooks[0].ClientConfig.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if _, err := hooks.Update(t.Context(), hook, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("the webhook refuses the pod: admission webhook \"self-test.example.com\" denied the request: no pods today")
	patch := func(r *admissionv1.AdmissionResponse) {
		r.Allowed, r.PatchType = true, new(admissionv1.PatchTypeJSONPatch)
		r.Patch = []byte(`[{"op":"add","path":"/spec/containers/-","value":{"name":"istio-proxy","image":"none"}}]`)
	}
	answer.Store(&patch)
	expect("")
	// A sidecar that pod security refuses was put there all the same.
	restrict := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`)
	if _, err := l.admin.Client.CoreV1().Namespaces().Patch(t.Context(), ns, types.StrategicMergePatchType, restrict, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	allowAsIs := func(r *admissionv1.AdmissionResponse) { r.Allowed = true }
	answer.Store(&allowAsIs)
	expect("the pod is not admitted: pods \"self-test\" is forbidden: violates PodSecurity")
	answer.Store(&patch)
	expect("")
	if left, err := l.admin.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("%d pods made, %v", len(left.Items), err)
	}
	l.also(t, allow("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "list"))
	metrics := prometheus.NewRegistry()
	test.Metrics, test.Log = metrics, logger(t)
	run(t, api.SelfTest(test))
	within(t, func() error {
		families, err := metrics.Gather()
		if err == nil && (len(families) == 0 || families[0].GetMetric()[0].GetGauge().GetValue() != 1) {
			err = errors.New("not passed")
		}
		return err
	})
}

func TestExplainedWithoutAnswer(t *testing.T) {
	err := explained(context.DeadlineExceeded, "n")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
	other := apierrors.NewTooManyRequestsError("later")
	if err := explained(other, "n"); !errors.Is(err, other) {
		t.Error(err)
	}
}
