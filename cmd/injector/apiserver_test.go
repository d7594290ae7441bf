package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// TestAPIServer runs the whole command for a real API server, which checks what
// no test of ours can: that it trusts the caBundle, takes the patch, and takes the
// pod that comes of it.
func TestAPIServer(t *testing.T) {
	kubeconfig := meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN"))
	api, err := cluster.Connect(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	l := lab{api.Client}
	addr := meshtest.Address(t)
	l.prepare(t, "https://"+addr+mesh.InjectPath)

	injector := start(t, "--kubeconfig="+kubeconfig, "--listen="+addr, "--admin="+meshtest.Address(t), "--settings="+file(t, "image: garrison/proxy:test\n"))

	first := issued(t, 1)
	first.Namespace = mesh.SystemNamespace
	if _, err := l.CoreV1().Secrets(mesh.SystemNamespace).Create(t.Context(), first, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := l.expectInjected(t)
	web := pod.Spec.Containers[0]
	if got := web.ReadinessProbe.HTTPGet; got.Path != "/app-health/web/readyz" || got.Port.IntValue() != mesh.AgentPort {
		t.Errorf("readiness probe %+v", got)
	}

	broken := aPod()
	broken.Annotations = map[string]string{mesh.ProxyCPU: "lots"}
	_, err = l.CoreV1().Pods("shop").Create(t.Context(), broken, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	const want = `admission webhook "namespace.sidecar-injector.istio.io" denied the request: metadata.annotations[sidecar.istio.io/proxyCPU]: "lots" is not a quantity`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nwant %s", err, want)
	}

	// Another root altogether: the caBundle must follow, and the certificate may after it.
	second := issued(t, 2)
	second.Namespace = mesh.SystemNamespace
	if _, err := l.CoreV1().Secrets(mesh.SystemNamespace).Update(t.Context(), second, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.eventually(t, "the caBundle of the second root", func(ctx context.Context) error {
		webhook, err := l.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, mesh.InjectorWebhook, metav1.GetOptions{})
		if err == nil && !bytes.Contains(webhook.Webhooks[0].ClientConfig.CABundle, second.Data[mesh.CertRoot]) {
			err = context.DeadlineExceeded
		}
		return err
	})
	l.expectInjected(t)

	// Told to end, it goes on answering until nobody asks any more.
	if err := injector.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	told := time.Now()
	for range 5 {
		_, err := l.create(t.Context())
		if over := time.Since(told); over >= serve.DefaultLinger {
			t.Logf("asked for %v, by when it may have ended: %v", over, err)
			break
		}
		if err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	}
}

// TestMain is the command where a test has started it as such: a process of its
// own has its own signals and its own klog.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_INJECTOR") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs the command beside the test and sees to it that it ends well.
func start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "TEST_AS_INJECTOR=1")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("injector: %v\n%s", err, &log)
		}
	})
	return cmd
}

// lab is an API server and its administrator.
type lab struct{ kubernetes.Interface }

// prepare makes the namespaces, the accounts that a controller would make, and the
// webhook, which has no caBundle yet.
func (l lab) prepare(t *testing.T, url string) {
	t.Helper()
	create := metav1.CreateOptions{}
	for name, injection := range map[string]string{"shop": "enabled", mesh.SystemNamespace: "disabled"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{mesh.InjectionLabel: injection}}}
		if _, err := l.CoreV1().Namespaces().Create(t.Context(), ns, create); err != nil {
			t.Fatal(err)
		}
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := l.CoreV1().ServiceAccounts("shop").Create(t.Context(), account, create); err != nil {
		t.Fatal(err)
	}
	none, ifNeeded := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.IfNeededReinvocationPolicy
	webhook := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{
			Name:   mesh.InjectorWebhook,
			Labels: map[string]string{mesh.RevisionLabel: mesh.DefaultRevision, mesh.ManagedByLabel: mesh.ManagedBy},
		},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "namespace." + mesh.InjectorWebhookSuffix, ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{mesh.InjectionLabel: "enabled"}},
			SideEffects:             &none,
			ReinvocationPolicy:      &ifNeeded,
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
	if _, err := l.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), webhook, create); err != nil {
		t.Fatal(err)
	}
}

func aPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true)},
			InitContainers:  []corev1.Container{{Name: "migrate", Image: "web"}},
			Containers: []corev1.Container{{
				Name: "web", Image: "web", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("http")}}},
				LivenessProbe:  &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
			}},
		},
	}
}

// expectInjected waits for a pod that the API server has accepted with the sidecar.
func (l lab) expectInjected(t *testing.T) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	l.eventually(t, "an injected pod", func(ctx context.Context) (err error) {
		pod, err = l.create(ctx)
		return err
	})
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	if got := strings.Join(names, " "); got != "istio-init istio-proxy migrate" {
		t.Errorf("init containers %s", got)
	}
	return pod
}

func (l lab) create(ctx context.Context) (*corev1.Pod, error) {
	return l.CoreV1().Pods("shop").Create(ctx, aPod(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: "Strict"})
}

func (l lab) eventually(t *testing.T, what string, holds func(context.Context) error) {
	t.Helper()
	var last error
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		last = holds(ctx)
		return last == nil, nil
	}); err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}
