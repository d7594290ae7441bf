// Package manifests_test holds the rules that every manifest keeps: what runs is
// restricted and bounded, what the webhook selects can deadlock nothing, names are
// those of internal/mesh. It parses the files strictly, so a misspelt field fails.
package manifests_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// kustomization is what the tests need of base/kustomization.yaml.
type kustomization struct {
	Resources          []string
	ConfigMapGenerator []struct {
		Name  string
		Files []string
	}
	Transformers []string
	Labels       []struct{ Pairs map[string]string }
}

func readKustomization(t *testing.T) kustomization {
	t.Helper()
	var k kustomization
	if err := yaml.Unmarshal(read(t, "base/kustomization.yaml"), &k); err != nil {
		t.Fatal(err)
	}
	return k
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// all returns the objects of one type in the base.
func all[T runtime.Object](t *testing.T) []T {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionv1.AddToScheme, appsv1.AddToScheme, corev1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme, schedulingv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var found []T
	for _, file := range readKustomization(t).Resources {
		docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(read(t, filepath.Join("base", file)))))
		for {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			object, _, err := decoder.Decode(doc, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if o, ok := object.(T); ok {
				found = append(found, o)
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("the base has no %T", *new(T))
	}
	return found
}

func TestKustomizationIsComplete(t *testing.T) {
	k := readKustomization(t)
	listed := append(slices.Clone(k.Resources), "kustomization.yaml")
	files, err := filepath.Glob("base/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !slices.Contains(listed, filepath.Base(file)) {
			t.Errorf("%s is in no list", file)
		}
	}
	if len(k.Transformers) != 1 || !strings.Contains(k.Transformers[0], "namespace: "+mesh.SystemNamespace) || !strings.Contains(k.Transformers[0], "unsetOnly: true") {
		t.Errorf("transformers %q, want one that puts what names no namespace into %s", k.Transformers, mesh.SystemNamespace)
	}
	if len(k.Labels) != 1 || k.Labels[0].Pairs[mesh.ManagedByLabel] != mesh.ManagedBy {
		t.Errorf("labels %v, want %s=%s on everything: install and uninstall go by it", k.Labels, mesh.ManagedByLabel, mesh.ManagedBy)
	}
	for _, d := range all[*appsv1.Deployment](t) {
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.ConfigMap != nil && !slices.ContainsFunc(k.ConfigMapGenerator, func(c struct {
				Name  string
				Files []string
			}) bool {
				return c.Name == v.ConfigMap.Name
			}) {
				t.Errorf("%s mounts ConfigMap %s, which nothing generates", d.Name, v.ConfigMap.Name)
			}
		}
	}
}

func TestNamespaces(t *testing.T) {
	got := map[string]map[string]string{}
	for _, ns := range all[*corev1.Namespace](t) {
		got[ns.Name] = ns.Labels
	}
	restricted := map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted",
		"pod-security.kubernetes.io/audit":   "restricted",
		"pod-security.kubernetes.io/warn":    "restricted",
	}
	system := maps.Clone(restricted)
	system[mesh.InjectionLabel] = "disabled"
	tested := maps.Clone(restricted)
	tested[mesh.SelfTestLabel] = "true"
	enabled, current := maps.Clone(tested), maps.Clone(tested)
	enabled[mesh.InjectionLabel] = "enabled"
	current[mesh.RevisionLabel] = mesh.DefaultRevision
	want := map[string]map[string]string{
		mesh.SystemNamespace: system, mesh.SelfTestNamespace: tested,
		mesh.SelfTestEnabledNamespace: enabled, mesh.SelfTestRevisionNamespace(mesh.DefaultRevision): current,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Every pod of ours is restricted, bounded and watched over.
func TestPods(t *testing.T) {
	for _, d := range all[*appsv1.Deployment](t) {
		t.Run(d.Name, func(t *testing.T) {
			pod := d.Spec.Template.Spec
			check := func(ok bool, what string) {
				t.Helper()
				if !ok {
					t.Error("want ", what)
				}
			}
			check(*d.Spec.Replicas >= 2, "two replicas")
			check(d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntVal == 0, "no replica missing in a rolling update")
			check(pod.PriorityClassName == all[*schedulingv1.PriorityClass](t)[0].Name, "our priority class")
			check(time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second > serve.DefaultLinger+15*time.Second, "a grace period above linger and stop")
			check(d.Spec.Template.Labels[mesh.InjectLabel] == "false", "no sidecar")
			check(pod.AutomountServiceAccountToken != nil, "a decision whether it talks to the API server")
			check(!pod.HostNetwork && !pod.HostPID && !pod.HostIPC, "nothing of the host")
			sc := pod.SecurityContext
			check(*sc.RunAsNonRoot && *sc.RunAsUser == 65532, "user 65532")
			check(sc.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "seccomp RuntimeDefault")
			for _, v := range pod.Volumes {
				check(v.HostPath == nil, "no hostPath")
			}
			for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
				sc := c.SecurityContext
				check(*sc.ReadOnlyRootFilesystem, "a read-only root file system")
				check(!*sc.AllowPrivilegeEscalation, "no escalation")
				check(sc.Privileged == nil, "no privilege")
				check(cmp.Equal(sc.Capabilities, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}), "no capability")
				for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
					request, limit := c.Resources.Requests[r], c.Resources.Limits[r]
					check(!request.IsZero() && request.Cmp(limit) <= 0, "a request and a limit of "+string(r))
				}
				for path, probe := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
					check(probe != nil && probe.HTTPGet.Path == path && port(c, probe.HTTPGet.Port) == mesh.MonitorPort, "probe "+path)
				}
			}
		})
	}
}

// port resolves a container's port by name or number; 0 when it has none such.
func port(c corev1.Container, p intstr.IntOrString) int32 {
	for _, declared := range c.Ports {
		if declared.Name == p.StrVal || declared.ContainerPort == p.IntVal {
			return declared.ContainerPort
		}
	}
	return 0
}

// Each server is reached by its Service, runs as its own account and is the only
// one to do so.
func TestServers(t *testing.T) {
	type server struct {
		deployment, account string
		port, target        int32
	}
	for service, want := range map[string]server{
		mesh.CitadelService:  {deployment: "citadel", port: mesh.CSRPort, target: mesh.CSRPort},
		mesh.InjectorService: {deployment: "injector", port: 443, target: mesh.WebhookPort},
	} {
		want.account = mesh.ServerAccount(service)
		s := named(t, all[*corev1.Service](t), service)
		d := named(t, all[*appsv1.Deployment](t), want.deployment)
		budget := named(t, all[*policyv1.PodDisruptionBudget](t), want.deployment)
		c := d.Spec.Template.Spec.Containers[0]
		got := server{c.Name, d.Spec.Template.Spec.ServiceAccountName, s.Spec.Ports[0].Port, port(c, s.Spec.Ports[0].TargetPort)}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		for what, selector := range map[string]map[string]string{
			"Service": s.Spec.Selector, "Deployment": d.Spec.Selector.MatchLabels, "budget": budget.Spec.Selector.MatchLabels,
		} {
			if len(selector) == 0 || !labels.SelectorFromSet(selector).Matches(labels.Set(d.Spec.Template.Labels)) {
				t.Errorf("%s: the selector of its %s misses its pods", service, what)
			}
		}
		if a := named(t, all[*corev1.ServiceAccount](t), want.account); *a.AutomountServiceAccountToken {
			t.Errorf("%s: any pod that names it would get a token", a.Name)
		}
	}
}

// What one server puts into certificates and the other into pods has to agree. Citadel's
// is the default: what stood in its settings would count as chosen by whoever installs,
// and a CA that is plugged in would not be asked for one.
func TestTrustDomain(t *testing.T) {
	var citadel, injector map[string]string
	for file, into := range map[string]*map[string]string{"citadel": &citadel, "injector": &injector} {
		if err := yaml.UnmarshalStrict(read(t, "base/settings/"+file+".yaml"), into); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := citadel["trust-domain"]; ok {
		t.Errorf("Citadel's trust domain %q was chosen by nobody", got)
	}
	if got := injector["trustDomain"]; got != identity.DefaultTrustDomain.String() {
		t.Errorf("trust domain of the injector %q, of Citadel %s", got, identity.DefaultTrustDomain)
	}
}

func named[T metav1.Object](t *testing.T, objects []T, name string) T {
	t.Helper()
	i := slices.IndexFunc(objects, func(o T) bool { return o.GetName() == name })
	if i < 0 {
		t.Fatalf("no %T %s", *new(T), name)
	}
	return objects[i]
}

// Each rule as "group/resource[name] verb,verb": whoever widens one says so here.
func TestRules(t *testing.T) {
	got := map[string][]string{}
	add := func(role string, rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			if r.NonResourceURLs != nil {
				got[role] = append(got[role], strings.Join(r.NonResourceURLs, ",")+" "+strings.Join(r.Verbs, ","))
				continue
			}
			got[role] = append(got[role], fmt.Sprintf("%s/%s%s %s", strings.Join(r.APIGroups, ","), strings.Join(r.Resources, ","), r.ResourceNames, strings.Join(r.Verbs, ",")))
		}
	}
	for _, r := range all[*rbacv1.ClusterRole](t) {
		add("cluster "+r.Name, r.Rules)
	}
	for _, r := range all[*rbacv1.Role](t) {
		add(strings.TrimPrefix(r.Namespace+" "+r.Name, " "), r.Rules)
	}
	tryOut := []string{"/pods[] create"} // by dry run: TestAPIServer
	want := map[string][]string{
		"cluster garrison-citadel": {
			"authentication.k8s.io/tokenreviews[] create",
			"/.well-known/openid-configuration,/openid/v1/jwks get",
			"/pods[] get,list,watch",
			"/namespaces[] list,watch",
			"/serviceaccounts[] get,list,watch",
			"/configmaps[" + mesh.RootConfigMap + "] list,watch,create,patch",
			"/events[] create",
		},
		"cluster garrison-citadel-secrets": {
			"/secrets[] get,list,watch,create,patch,delete", // and no others than TestCitadelPolicy says
		},
		"garrison-citadel": {
			"coordination.k8s.io/leases[] create",
			"coordination.k8s.io/leases[" + mesh.CitadelLease + "] get,update",
			"/configmaps[" + mesh.IssuanceLogConfigMap + "] create,patch",
			"/secrets[" + mesh.IntermediateSecret + "] update",
			"/configmaps[" + mesh.RevocationsConfigMap + "] list,watch",
		},
		"cluster garrison-injector": {
			"admissionregistration.k8s.io/mutatingwebhookconfigurations[] list,watch",
			"admissionregistration.k8s.io/mutatingwebhookconfigurations[" + mesh.InjectorWebhook + "] patch",
			"/namespaces[] get,list,watch",
			"/nodes[] list,watch",
			"/pods[] list,watch",
			"apps/replicasets[] get",
			"/events[] create",
		},
		"garrison-injector-overlays": {
			"/configmaps[" + mesh.OverlaysConfigMap + "] list,watch",
		},
		mesh.SelfTestNamespace + " garrison-injector":                               tryOut,
		mesh.SelfTestEnabledNamespace + " garrison-injector":                        tryOut,
		mesh.SelfTestRevisionNamespace(mesh.DefaultRevision) + " garrison-injector": tryOut,
		"garrison-injector": {
			"/secrets[" + mesh.WorkloadSecret(mesh.ServerAccount(mesh.InjectorService)) + "] list,watch",
			"coordination.k8s.io/leases[] create",
			"coordination.k8s.io/leases[" + mesh.InjectorLease + "] get,update",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
