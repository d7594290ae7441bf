package manifests_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// revised runs hack/revision over the base, which a stand-in for kubectl renders, and
// returns what it prints by kind and name.
func revised(t *testing.T, revision string) map[string]map[string]any {
	t.Helper()
	dir := t.TempDir()
	var rendered bytes.Buffer
	for _, o := range append(all[runtime.Object](t), &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "garrison-injector-settings-h4sh"},
		Data: map[string]string{"injector.yaml": string(read(t, "base/settings/injector.yaml"))},
	}) {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		rendered.WriteString("---\n")
		rendered.Write(text)
	}
	for name, content := range map[string]string{
		"kustomization.yaml": "", "rendered": rendered.String(), "kubectl": "#!/bin/sh\nexec cat \"$2/rendered\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("../hack/revision", revision)
	cmd.Env = append(os.Environ(), "KUBECTL="+filepath.Join(dir, "kubectl"), "MANIFESTS="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	objects := map[string]map[string]any{}
	for text := range strings.SplitSeq(strings.TrimPrefix(string(out), "---\n"), "\n---\n") {
		var o map[string]any
		if err := yaml.UnmarshalStrict([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		name := o["kind"].(string) + " " + o["metadata"].(map[string]any)["name"].(string)
		if ns, ok := o["metadata"].(map[string]any)["namespace"].(string); ok {
			name += " in " + ns
		}
		objects[name] = o
	}
	return objects
}

func as[T any](t *testing.T, o map[string]any) T {
	t.Helper()
	var typed T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o, &typed); err != nil {
		t.Fatal(err)
	}
	return typed
}

// A second injector stands beside the first: nothing of the first is overwritten,
// selected or led by it, and it may do what the first may, in its own name.
func TestRevision(t *testing.T) {
	objects := revised(t, "canary")
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range objects {
			if !yield(name) {
				return
			}
		}
	})
	if diff := cmp.Diff([]string{
		"ClusterRole garrison-injector-canary",
		"ClusterRoleBinding garrison-injector-canary",
		"ConfigMap garrison-injector-canary-settings-h4sh",
		"Deployment injector-canary",
		"Lease garrison-injector-canary in istio-system",
		"PodDisruptionBudget injector-canary",
		"Role garrison-injector-canary",
		"Role garrison-injector-canary in garrison-self-test",
		"Role garrison-injector-canary-overlays",
		"RoleBinding garrison-injector-canary",
		"RoleBinding garrison-injector-canary in garrison-self-test",
		"RoleBinding garrison-injector-canary-overlays",
		"Service istio-sidecar-injector-canary",
		"ServiceAccount istio-sidecar-injector-canary-service-account",
	}, names); diff != "" {
		t.Fatal(diff)
	}
	w := inject.Webhook{Revision: "canary"}
	account := mesh.ServerAccount(w.Service())
	for name, o := range objects {
		if strings.Contains(name, "Binding ") {
			b := as[rbacv1.RoleBinding](t, o)
			if b.Subjects[0].Name != account || b.RoleRef.Name != b.Name {
				t.Errorf("%s: gives %s to %s", name, b.RoleRef.Name, b.Subjects[0].Name)
			}
		}
	}
	var resources []string
	for _, name := range []string{"ClusterRole garrison-injector-canary", "Role garrison-injector-canary", "Role garrison-injector-canary-overlays"} {
		for _, rule := range as[rbacv1.Role](t, objects[name]).Rules {
			resources = append(resources, rule.ResourceNames...)
		}
	}
	if diff := cmp.Diff([]string{"istio-sidecar-injector-canary", mesh.WorkloadSecret(account), mesh.InjectorLease + "-canary", mesh.OverlaysConfigMap}, resources); diff != "" {
		t.Error(diff)
	}
	d, s := as[appsv1.Deployment](t, objects["Deployment injector-canary"]), as[corev1.Service](t, objects["Service "+w.Service()])
	first := named(t, all[*corev1.Service](t), mesh.InjectorService)
	pod := labels.Set(d.Spec.Template.Labels)
	if !labels.SelectorFromSet(s.Spec.Selector).Matches(pod) || labels.SelectorFromSet(first.Spec.Selector).Matches(pod) ||
		!labels.SelectorFromSet(d.Spec.Selector.MatchLabels).Matches(pod) || s.Labels["app"] != first.Labels["app"] {
		t.Errorf("pods %v, Service %v of %v", pod, s.Spec.Selector, s.Labels)
	}
	if spec := d.Spec.Template.Spec; spec.ServiceAccountName != account || spec.Volumes[0].ConfigMap.Name != "garrison-injector-canary-settings" {
		t.Errorf("account %s, settings %s", spec.ServiceAccountName, spec.Volumes[0].ConfigMap.Name)
	}
	settings := as[corev1.ConfigMap](t, objects["ConfigMap garrison-injector-canary-settings-h4sh"])
	if o, err := inject.ParseOptions([]byte(settings.Data["injector.yaml"])); err != nil || o.Revision != "canary" {
		t.Errorf("revision %q, %v", o.Revision, err)
	}
}

func TestRevisionRefuses(t *testing.T) {
	for _, args := range [][]string{{}, {"default"}, {"Canary"}, {"a b"}, {"a/b"}, {"-a"}, {strings.Repeat("a", 41)}, {"a", "b"}} {
		cmd := exec.Command("../hack/revision", args...)
		cmd.Env = append(os.Environ(), "KUBECTL=false")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "want one name") {
			t.Errorf("%q: %v %s", args, err, out)
		}
	}
}
