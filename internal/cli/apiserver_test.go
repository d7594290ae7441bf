package cli

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/admission"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// TestAPIServerSelects holds what we say of selection to a real API server: the
// entries that it calls for a pod are those that inject.Select names with our
// evaluation of conditions, in a cluster where a revision and a tag stand beside the
// default installation, and in one where the revision is the default.
func TestAPIServerSelects(t *testing.T) {
	kubeconfig := meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN"))
	client, err := (&access{file: kubeconfig}).client()
	if err != nil {
		t.Fatal(err)
	}
	l := lab{Interface: client, calls: listen(t)}
	canary := inject.Webhook{Revision: "canary"}
	beside := []inject.Webhook{{}, canary, {Revision: "canary", Tag: "prod"}}
	instead := []inject.Webhook{{Neutral: true}, canary, {Revision: "canary", Tag: "default", NamespacesByDefault: true}}

	// Namespaces by their labels; those that the API server makes have none.
	namespaces := []mesh.Namespace{{Name: "kube-system"}, {Name: "istio-system", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}, {Name: mesh.SelfTestNamespace}}
	for name, labels := range map[string]map[string]string{
		"plain":         nil,
		"enabled":       {mesh.InjectionLabel: "enabled"},
		"disabled":      {mesh.InjectionLabel: "disabled"},
		"current":       {mesh.RevisionLabel: "default"},
		"canary":        {mesh.RevisionLabel: "canary"},
		"prod":          {mesh.RevisionLabel: "prod"},
		"both":          {mesh.InjectionLabel: "enabled", mesh.RevisionLabel: "canary"},
		"contradictory": {mesh.InjectionLabel: "disabled", mesh.RevisionLabel: "canary"},
	} {
		namespaces = append(namespaces, mesh.Namespace{Name: name, Labels: labels})
	}
	for _, ns := range namespaces {
		l.prepare(t, ns)
	}
	pods := []metav1.ObjectMeta{
		{},
		{Annotations: map[string]string{mesh.InjectLabel: "true"}}, // which nothing can select
		{Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"}},
		{Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"}, Labels: map[string]string{mesh.InjectLabel: "true"}},
		{Labels: map[string]string{mesh.InjectLabel: "true"}},
		{Labels: map[string]string{mesh.InjectLabel: "false"}},
		{Labels: map[string]string{mesh.InjectLabel: ""}},
		{Labels: map[string]string{mesh.RevisionLabel: "default"}},
		{Labels: map[string]string{mesh.RevisionLabel: "canary"}},
		{Labels: map[string]string{mesh.RevisionLabel: "prod"}},
		{Labels: map[string]string{mesh.RevisionLabel: "canary", mesh.InjectLabel: "true"}},
		{Labels: map[string]string{mesh.RevisionLabel: "canary", mesh.InjectLabel: "false"}},
	}
	for phase, installed := range map[string][]inject.Webhook{"beside": beside, "instead": instead} {
		t.Run(phase, func(t *testing.T) {
			var configs []*admissionregistrationv1.MutatingWebhookConfiguration
			for _, w := range installed {
				config, err := w.Configuration()
				if err != nil {
					t.Fatal(err)
				}
				configs = append(configs, config)
			}
			configs = l.inForce(t, phase, configs...)
			seen := map[string]bool{}
			for _, ns := range namespaces {
				for _, meta := range pods {
					pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
					pod.Name = "p"
					want := selected(t, configs, ns, pod)
					if got := l.called(t, ns.Name, pod); !slices.Equal(got, want) {
						t.Errorf("namespace %s %v, pod %v %v: the API server calls %q, Select says %q", ns.Name, ns.Labels, meta.Labels, meta.Annotations, got, want)
					}
					seen[strings.Join(want, " ")] = true
				}
			}
			if want := map[string]int{"beside": 1 + 8, "instead": 1 + 7}[phase]; len(seen) != want {
				t.Errorf("called %v; want %d different answers", seen, want)
			}
		})
	}
	t.Run("conditions", func(t *testing.T) { testConditions(t, l) })
}

// testConditions holds our evaluation of conditions to the API server's, error for
// not called: every condition is that of an entry which is ignored when it fails.
func testConditions(t *testing.T, l lab) {
	ns := mesh.Namespace{Name: "conditions"}
	l.prepare(t, ns)
	config, err := inject.Webhook{}.Configuration()
	if err != nil {
		t.Fatal(err)
	}
	entry := config.Webhooks[0]
	entry.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns.Name}}
	entry.FailurePolicy = new(admissionregistrationv1.Ignore)
	config.Webhooks = nil
	for i, expression := range []string{
		`object.metadata.labels.app == 'cart'`, // an error, for some pods
		`has(object.metadata.labels) && object.metadata.labels.app == 'cart'`,
		`object.spec.containers[0].name + 'x' == 'cx'`,
		`object.spec.containers.size() + 1 == 2`,
		`object.spec.containers.size() < 1.5`,
		`object.spec.containers[0].ports[0].containerPort + 1 == 81`,
		`object.?spec.nodeName.orValue('none') == 'none'`,
		`oldObject == null`,
		`oldObject.metadata.name == 'p'`,
		`has(request.name)`,
		`request.name == 'p'`,
		`request.operation == 'CREATE' && request.namespace == 'conditions'`,
		`request.kind.kind == 'Pod' && request.kind.group == '' && request.requestKind.version == 'v1'`,
		`request.resource.resource == 'pods' && request.requestResource.group == ''`,
		`has(request.subResource)`,
		`sets.contains(['p', 'q'], [object.metadata.?name.orValue('r')])`,
		`object.spec.containers[0].image.upperAscii().split('/').size() == 1`,
		`object.spec.containers.exists(i, c, i == 0 && c.image == 'i')`,
	} {
		entry.Name = fmt.Sprintf("e%d.example.com", i)
		entry.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "c", Expression: expression}}
		config.Webhooks = append(config.Webhooks, *entry.DeepCopy())
	}
	config = l.inForce(t, "conditions", config)[0]
	for _, meta := range []metav1.ObjectMeta{
		{Name: "p"},
		{GenerateName: "p-"},
		{Name: "q", Labels: map[string]string{"app": "cart"}},
	} {
		container := corev1.Container{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}
		pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{container}}}
		got := l.called(t, ns.Name, pod)
		creation := creationFrom(t, ns.Name, pod)
		for i, s := range inject.Select(config, ns, pod.Labels, creation.holds) {
			if called := slices.Contains(got, *config.Webhooks[i].ClientConfig.URL); called != s.Called || errors.Is(s.Err, errNotHere) {
				t.Errorf("pod %s%s, %s: the API server calls: %v; we say %+v", meta.Name, meta.GenerateName, config.Webhooks[i].MatchConditions[0].Expression, called, s)
			}
		}
	}
}

// selected returns the URLs of the entries that Select names.
func selected(t *testing.T, configs []*admissionregistrationv1.MutatingWebhookConfiguration, ns mesh.Namespace, pod *corev1.Pod) []string {
	t.Helper()
	creation := creationFrom(t, ns.Name, pod)
	var urls []string
	for _, config := range configs {
		for i, s := range inject.Select(config, ns, pod.Labels, creation.holds) {
			if s.Err != nil {
				t.Errorf("%s: %v", s.Entry, s.Err)
			}
			if s.Called {
				urls = append(urls, *config.Webhooks[i].ClientConfig.URL)
			}
		}
	}
	return urls
}

func creationFrom(t *testing.T, namespace string, pod *corev1.Pod) podCreation {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newPodCreation(namespace, raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// calls is a webhook that allows everything and remembers by which URL it was asked.
type calls struct {
	*httptest.Server
	mu   sync.Mutex
	urls []string
}

func listen(t *testing.T) *calls {
	c := &calls{}
	answer := admission.Handler(func(_ context.Context, r *admission.Request) admission.Response {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.urls = append(c.urls, c.URL+mesh.InjectPath+r.Path)
		return admission.Response{Allowed: true}
	}, admission.Config{})
	c.Server = httptest.NewTLSServer(answer)
	t.Cleanup(c.Close)
	return c
}

func (c *calls) taken() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	urls := c.urls
	c.urls = nil
	return urls
}

// lab is an API server, its administrator, and the webhook that it calls.
type lab struct {
	kubernetes.Interface
	calls *calls
}

// prepare makes a namespace, with the account that a controller would make: a pod
// needs one.
func (l lab) prepare(t *testing.T, ns mesh.Namespace) {
	t.Helper()
	_, err := l.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ns.Labels}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := l.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// inForce makes configurations, each entry with a URL of its own, waits until the API
// server goes by them, and removes them with the test.
func (l lab) inForce(t *testing.T, phase string, configs ...*admissionregistrationv1.MutatingWebhookConfiguration) []*admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	for i := range configs {
		configs[i] = l.create(t, phase, configs[i])
	}
	// The API server learns of changes in their order: when it calls the last one, the
	// others are in force and those of the phase before are gone.
	last := configs[0].DeepCopy()
	last.ObjectMeta = metav1.ObjectMeta{Name: "last"}
	last.Webhooks = last.Webhooks[:1]
	last.Webhooks[0].MatchConditions = nil
	last.Webhooks[0].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "last-" + phase}}
	l.prepare(t, mesh.Namespace{Name: "last-" + phase})
	last = l.create(t, phase, last)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		return slices.Contains(l.called(t, "last-"+phase, pod), *last.Webhooks[0].ClientConfig.URL), nil
	}); err != nil {
		t.Fatalf("webhooks of %s not in force after 20 s", phase)
	}
	return configs
}

func (l lab) create(t *testing.T, phase string, config *admissionregistrationv1.MutatingWebhookConfiguration) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.calls.Certificate().Raw})
	for i := range config.Webhooks {
		e := &config.Webhooks[i]
		url := strings.Join([]string{l.calls.URL + mesh.InjectPath, phase, config.Name, e.Name}, "/")
		e.ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca}
	}
	all := l.AdmissionregistrationV1().MutatingWebhookConfigurations()
	created, err := all.Create(t.Context(), config, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := all.Delete(context.WithoutCancel(t.Context()), config.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return created
}

// called returns the URLs by which the API server asks about a pod.
func (l lab) called(t *testing.T, namespace string, pod *corev1.Pod) []string {
	t.Helper()
	l.calls.taken()
	if _, err := l.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("pod in %s: %v", namespace, err)
	}
	return l.calls.taken()
}
