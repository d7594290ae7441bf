package manifests_test

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// TestAPIServer lets a real API server judge: its defaults, its admission, its CEL.
func TestAPIServer(t *testing.T) {
	kubeconfig := meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN"))
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		t.Fatal(err)
	}
	l := lab{connect(t, config), config}
	l.install(t)
	for name, test := range map[string]func(*testing.T, lab){
		"the servers' pods are admitted":   testPodsAdmitted,
		"the webhook's conditions":         testConditions,
		"strict namespaces":                testStrict,
		"ephemeral containers":             testEphemeral,
		"policies are refused":             testPoliciesRefused,
		"installing keeps the caBundle":    testBundleKept,
		"Citadel may write one ConfigMap":  testConfigMapRights,
		"Citadel may write few Secrets":    testSecretRights,
		"Citadel in single namespaces":     testSingleNamespaces,
		"nobody reads the mesh's root key": testRootKeyRights,
		"pods are only tried out":          testDryRunOnly,
	} {
		t.Run(name, func(t *testing.T) { test(t, l) })
	}
}

// lab is an API server with the base on it, and its administrator.
type lab struct {
	dynamic.Interface
	config *rest.Config
}

func connect(t *testing.T, config *rest.Config) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// as is the cluster as a service account of the system namespace sees it.
func (l lab) as(t *testing.T, account string) dynamic.Interface {
	t.Helper()
	config := rest.CopyConfig(l.config)
	config.Impersonate.UserName = "system:serviceaccount:" + mesh.SystemNamespace + ":" + account
	return connect(t, config)
}

var (
	accounts   = corev1.SchemeGroupVersion.WithResource("serviceaccounts")
	pods       = corev1.SchemeGroupVersion.WithResource("pods")
	namespaces = corev1.SchemeGroupVersion.WithResource("namespaces")
	configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")
	secrets    = corev1.SchemeGroupVersion.WithResource("secrets")
	webhooks   = admissionv1.SchemeGroupVersion.WithResource("mutatingwebhookconfigurations")
	crds       = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

// install applies the base as hack/install does, which must also hold a second time, and
// waits until the API server goes by it.
func (l lab) install(t *testing.T) {
	t.Helper()
	for _, o := range all[runtime.Object](t) {
		l.apply(t, object(t, o))
	}
	l.inForce(t)
}

func (l lab) apply(t *testing.T, u *unstructured.Unstructured) {
	t.Helper()
	var to dynamic.ResourceInterface
	plural, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
	switch to = l.Resource(plural); u.GetKind() {
	case "ServiceAccount", "Role", "RoleBinding", "Service", "Deployment", "PodDisruptionBudget":
		to = l.Resource(plural).Namespace(cmp.Or(u.GetNamespace(), mesh.SystemNamespace))
	}
	if _, err := to.Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "garrison-install"}); err != nil {
		t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
	}
}

func object(t *testing.T, o runtime.Object) *unstructured.Unstructured {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(u.Object, "status")
	return u
}

// dryRun creates an object as far as admission goes.
func (l lab) dryRun(t *testing.T, r schema.GroupVersionResource, namespace string, o *unstructured.Unstructured) error {
	t.Helper()
	_, err := l.Resource(r).Namespace(namespace).Create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// Under the strictest level of pod security, with our priority class and account.
func testPodsAdmitted(t *testing.T, l lab) {
	for _, d := range all[*appsv1.Deployment](t) {
		pod := object(t, &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: d.Name, Labels: d.Spec.Template.Labels},
			Spec:       d.Spec.Template.Spec,
		})
		if err := l.dryRun(t, pods, mesh.SystemNamespace, pod); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
}

// A pod without annotations is shown to the injector and not refused by an
// expression that cannot be evaluated; a mirror pod is not shown to it.
func testConditions(t *testing.T, l lab) {
	// Nobody listens there: a webhook that is called refuses, with its name.
	hook, err := l.Resource(webhooks).Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entries, _, _ := unstructured.NestedSlice(hook.Object, "webhooks")
	for _, entry := range entries {
		entry.(map[string]any)["clientConfig"] = map[string]any{"url": "https://127.0.0.1:1/inject"}
	}
	if err := unstructured.SetNestedSlice(hook.Object, entries, "webhooks"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resource(webhooks).Update(t.Context(), hook, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Resource(webhooks).Delete(t.Context(), mesh.InjectorWebhook, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		l.install(t)
	}()
	shop := object(t, &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}},
	})
	if _, err := l.Resource(namespaces).Create(t.Context(), shop, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// No controller makes it here, and a pod needs one.
	account := object(t, &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
	})
	if _, err := l.Resource(accounts).Namespace("shop").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := func(annotations map[string]string) *unstructured.Unstructured {
		return object(t, &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: annotations},
			Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
	}
	called := `failed calling webhook "namespace.` + mesh.InjectorWebhookSuffix + `"`
	eventually(t, "the webhook is in force", func() bool {
		err := l.dryRun(t, pods, "shop", pod(map[string]string{"a": "b"}))
		return err != nil && strings.Contains(err.Error(), called)
	})
	if err := l.dryRun(t, pods, "shop", pod(nil)); err == nil || !strings.Contains(err.Error(), called) {
		t.Errorf("without annotations: %v, want it shown to the injector", err)
	}
	if err := l.dryRun(t, pods, "shop", pod(map[string]string{corev1.MirrorPodAnnotationKey: "x"})); err != nil {
		t.Errorf("mirror pod: %v", err)
	}
}

// A strict namespace takes pods with the sidecar, and a pod that only looks like one does
// not get in by not being shown to the injector.
func testStrict(t *testing.T, l lab) {
	// What the injector is shown, it judges itself; here it would have said yes.
	if err := l.Resource(webhooks).Delete(t.Context(), mesh.InjectorWebhook, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	defer l.install(t)
	for name, labels := range map[string]map[string]string{
		"vault":        {mesh.InjectionLabel: "enabled"},
		"vault-canary": {mesh.RevisionLabel: "canary"},
		"vault-bare":   {},
		"vault-off":    {mesh.InjectionLabel: "disabled", mesh.RevisionLabel: "canary"},
	} {
		labels[mesh.CaptureLabel] = mesh.CaptureStrict
		apply := func(to dynamic.ResourceInterface, o runtime.Object) {
			u := object(t, o)
			if _, err := to.Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
				t.Fatal(err)
			}
		}
		apply(l.Resource(namespaces), &corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		})
		apply(l.Resource(accounts).Namespace(name), &corev1.ServiceAccount{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Name: "default"},
		})
	}
	const policy = "garrison-capture-strict"
	refused := func(namespace string, labels map[string]string, containers ...string) (bool, error) {
		p := &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: labels, Annotations: map[string]string{mesh.Status: "{}"}},
		}
		for _, name := range containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name, Image: "i"})
		}
		err := l.dryRun(t, pods, namespace, object(t, p))
		return err != nil && strings.Contains(err.Error(), policy), err
	}
	eventually(t, policy+" is in force", func() bool {
		no, _ := refused("vault", nil, "c")
		return no
	})
	for _, c := range []struct {
		namespace string
		labels    map[string]string
		refused   bool
	}{
		{"vault", nil, false},
		{"vault", map[string]string{mesh.InjectLabel: "true"}, false},
		{"vault", map[string]string{mesh.InjectLabel: "false"}, true},
		{"vault-canary", nil, false},
		{"vault-canary", map[string]string{mesh.InjectLabel: "false"}, true},
		{"vault-bare", nil, true},
		{"vault-bare", map[string]string{mesh.InjectLabel: "true"}, false},
		{"vault-bare", map[string]string{mesh.InjectLabel: "true", mesh.RevisionLabel: "none"}, true},
		{"vault-off", map[string]string{mesh.InjectLabel: "true"}, true},
	} {
		no, err := refused(c.namespace, c.labels, "c", mesh.ProxyContainer)
		if no != c.refused || !no && err != nil {
			t.Errorf("%s %v: %v, want it refused: %v", c.namespace, c.labels, err, c.refused)
		}
	}
}

// What comes to a running pod of a strict namespace neither acts as its proxy nor changes
// its network; what came before it was strict is in nobody's way.
func testEphemeral(t *testing.T, l lab) {
	const ns = "vault-running"
	labelled := func(labels map[string]string) {
		t.Helper()
		o := object(t, &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: labels}})
		if _, err := l.Resource(namespaces).Apply(t.Context(), ns, o, metav1.ApplyOptions{FieldManager: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	labelled(nil)
	account := object(t, &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	if _, err := l.Resource(accounts).Namespace(ns).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	there := l.Resource(pods).Namespace(ns)
	pod := object(t, &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	if _, err := there.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	join := func(name, security string, dryRun ...string) error {
		patch := fmt.Sprintf(`{"spec":{"ephemeralContainers":[{"name":%q,"image":"i","securityContext":%s}]}}`, name, security)
		_, err := there.Patch(t.Context(), "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dryRun}, "ephemeralcontainers")
		return err
	}
	const whole = `{"privileged":true,"runAsUser":1337}`
	if err := join("before", whole); err != nil {
		t.Fatal(err)
	}
	labelled(map[string]string{mesh.CaptureLabel: mesh.CaptureStrict})
	const policy = "garrison-capture-strict-ephemeral"
	refused := func(security string) (bool, error) {
		err := join("late", security, metav1.DryRunAll)
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), policy), err
	}
	eventually(t, policy+" is in force", func() bool {
		no, _ := refused(whole)
		return no
	})
	for security, want := range map[string]bool{
		`null`:                 false,
		`{}`:                   false,
		`{"runAsUser":0}`:      false,
		`{"runAsUser":13370}`:  false,
		`{"privileged":false}`: false,
		`{"capabilities":{"drop":["NET_ADMIN","ALL"]}}`:         false,
		`{"capabilities":{"add":["NET_BIND_SERVICE","CHOWN"]}}`: false,
		`{"runAsUser":1337}`:                     true,
		`{"runAsGroup":1337}`:                    true,
		`{"privileged":true}`:                    true,
		`{"capabilities":{"add":["NET_ADMIN"]}}`: true,
		`{"capabilities":{"add":["NET_RAW"]}}`:   true,
		`{"capabilities":{"drop":["ALL"],"add":["CHOWN","cap_sys_ptrace"]}}`: true,
		`{"capabilities":{"add":["All"]}}`:                                   true,
	} {
		if no, err := refused(security); no != want || !no && err != nil {
			t.Errorf("%s: %v, want it refused: %v", security, err, want)
		}
	}
}

func testPoliciesRefused(t *testing.T, l lab) {
	policies := map[string]schema.GroupVersionKind{
		"peerauthentications":    {Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"},
		"requestauthentications": {Group: "security.istio.io", Version: "v1", Kind: "RequestAuthentication"},
		"authorizationpolicies":  {Group: "security.istio.io", Version: "v1", Kind: "AuthorizationPolicy"},
		"destinationrules":       {Group: "networking.istio.io", Version: "v1alpha3", Kind: "DestinationRule"},
		"gateways":               {Group: "networking.istio.io", Version: "v1beta1", Kind: "Gateway"},
		"virtualservices":        {Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"},
	}
	for plural, kind := range policies {
		crd := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": plural + "." + kind.Group},
			"spec": map[string]any{
				"group": kind.Group, "scope": "Namespaced",
				"names": map[string]any{"plural": plural, "kind": kind.Kind},
				"versions": []any{map[string]any{
					"name": kind.Version, "served": true, "storage": true,
					"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}},
				}},
			},
		}}
		if _, err := l.Resource(crds).Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for plural, kind := range policies {
		resource := kind.GroupVersion().WithResource(plural)
		want := "does not enforce " + kind.Kind
		eventually(t, kind.Kind+" is refused", func() bool {
			policy := &unstructured.Unstructured{}
			policy.SetGroupVersionKind(kind)
			policy.SetName("p")
			err := l.dryRun(t, resource, metav1.NamespaceDefault, policy)
			return apierrors.IsForbidden(err) && strings.Contains(err.Error(), want)
		})
		if _, err := l.Resource(resource).List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("reading %s: %v", kind.Kind, err)
		}
	}
}

// As hack/install leaves it to the injector.
func testBundleKept(t *testing.T, l lab) {
	want := base64.StdEncoding.EncodeToString(l.config.CAData) // any certificate
	var entries []any
	for _, entry := range webhook(t).Webhooks {
		entries = append(entries, map[string]any{"name": entry.Name, "clientConfig": map[string]any{"caBundle": want}})
	}
	hook := &unstructured.Unstructured{Object: map[string]any{"webhooks": entries}}
	hook.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"))
	hook.SetName(mesh.InjectorWebhook)
	injector := l.as(t, mesh.ServerAccount(mesh.InjectorService)).Resource(webhooks)
	if _, err := injector.Apply(t.Context(), hook.GetName(), hook, metav1.ApplyOptions{FieldManager: mesh.InjectorFieldManager}); err != nil {
		t.Fatal(err)
	}
	l.install(t)
	got, err := l.Resource(webhooks).Get(t.Context(), mesh.InjectorWebhook, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kept, _, _ := unstructured.NestedSlice(got.Object, "webhooks")
	if len(kept) != len(entries) {
		t.Errorf("%d entries, want %d", len(kept), len(entries))
	}
	for _, entry := range kept {
		if bundle, _, _ := unstructured.NestedString(entry.(map[string]any), "clientConfig", "caBundle"); bundle != want {
			t.Errorf("%s: caBundle %q", entry.(map[string]any)["name"], bundle)
		}
	}
}

// Server-side apply creates by name, so even that right is limited to one.
func testConfigMapRights(t *testing.T, l lab) {
	citadel := l.as(t, mesh.ServerAccount(mesh.CitadelService)).Resource(configMaps).Namespace(metav1.NamespaceDefault)
	apply := func(name string) error {
		configMap := object(t, &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: name},
		})
		_, err := citadel.Apply(t.Context(), name, configMap, metav1.ApplyOptions{FieldManager: mesh.CitadelFieldManager})
		return err
	}
	if err := apply(mesh.RootConfigMap); err != nil {
		t.Error(err)
	}
	if err := apply("other"); !apierrors.IsForbidden(err) {
		t.Errorf("another ConfigMap: %v", err)
	}
}

func testRootKeyRights(t *testing.T, l lab) {
	injector := l.as(t, mesh.ServerAccount(mesh.InjectorService)).Resource(secrets).Namespace(mesh.SystemNamespace)
	if _, err := injector.Get(t.Context(), mesh.CASecret, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the injector reads %s: %v", mesh.CASecret, err)
	}
	if _, err := injector.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the injector lists Secrets: %v", err)
	}
	own := "metadata.name=" + mesh.WorkloadSecret(mesh.ServerAccount(mesh.InjectorService))
	if _, err := injector.List(t.Context(), metav1.ListOptions{FieldSelector: own}); err != nil {
		t.Errorf("the injector lists its own Secret: %v", err)
	}
}

// The injector may ask what would become of a pod, and nobody can make one there.
func testDryRunOnly(t *testing.T, l lab) {
	account := object(t, &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
	})
	pod := object(t, &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		// Left out of injection: nobody answers for the webhook here.
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{mesh.InjectLabel: "false"}},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "c", Image: "i", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	})
	for _, ns := range []string{mesh.SelfTestNamespace, mesh.SelfTestEnabledNamespace, mesh.SelfTestRevisionNamespace(mesh.DefaultRevision)} {
		if _, err := l.Resource(accounts).Namespace(ns).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for who, client := range map[string]dynamic.Interface{"the injector": l.as(t, mesh.ServerAccount(mesh.InjectorService)), "the administrator": l} {
			there := client.Resource(pods).Namespace(ns)
			eventually(t, who+" makes no pod in "+ns, func() bool {
				_, err := there.Create(t.Context(), pod, metav1.CreateOptions{})
				if err == nil { // the policy is not in force yet
					err = l.Resource(pods).Namespace(ns).Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
				}
				return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "only tried out")
			})
			if _, err := there.Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
				t.Errorf("%s by dry run in %s: %v", who, ns, err)
			}
		}
	}
	injector := l.as(t, mesh.ServerAccount(mesh.InjectorService)).Resource(pods)
	if _, err := injector.Namespace(metav1.NamespaceDefault).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); !apierrors.IsForbidden(err) {
		t.Errorf("the injector in another namespace: %v", err)
	}
}

// eventually waits for what an API server learns by its own watches.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-deadline:
			t.Fatal("not so after a minute: ", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
