package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

const (
	oldSettings = "image: garrison/proxy:v1\n"
	newSettings = "image: garrison/proxy:v2\ndefaults: {sidecar.istio.io/proxyCPU: 50m}\n"
)

// TestAPIServerLive runs the commands that look into a cluster against a real API
// server, in an installation as the manifests have it: pods come back from it with all
// that it adds.
func TestAPIServerLive(t *testing.T) {
	c := newShop(t)
	c.install(t, inject.Webhook{}, newSettings)

	t.Run("drift", func(t *testing.T) {
		c.expect(t, 3, []string{"drift", "-n", "shop"}, `
NAMESPACE  POD         OWNER           CONFIGURATION     REASON
shop       istio       -               -                 whether it is of today's configuration cannot be said: metadata.annotations[sidecar.istio.io/status]: not written by Garrison, which always says of which configuration: was the pod injected by another injector, or its record copied?; `+"`garrison uninject`"+` takes an old sidecar off a manifest, or remove the annotation and the containers that it names
shop       old         deployment/old  OLD               differs in istio-init.image, istio-init.resources, istio-proxy.image, istio-proxy.resources
garrison: 2 with another sidecar than they would get today`)
		c.expect(t, 3, []string{"drift", "-A", "--diff"}, `
NAMESPACE  POD         OWNER           CONFIGURATION     REASON
plain      unlabelled  -               NEW               today it would be left out: no webhook entry selects it: namespace plain has neither label istio-injection nor istio.io/rev
shop       istio       -               -                 whether it is of today's configuration cannot be said: metadata.annotations[sidecar.istio.io/status]: not written by Garrison, which always says of which configuration: was the pod injected by another injector, or its record copied?; `+"`garrison uninject`"+` takes an old sidecar off a manifest, or remove the annotation and the containers that it names
shop       old         deployment/old  OLD               differs in istio-init.image, istio-init.resources, istio-proxy.image, istio-proxy.resources

plain/unlabelled

shop/istio

shop/old
  spec.initContainers[istio-init].image: "garrison/proxy:v1" → "garrison/proxy:v2"
  spec.initContainers[istio-init].resources.requests.cpu: "100m" → "50m"
  spec.initContainers[istio-proxy].image: "garrison/proxy:v1" → "garrison/proxy:v2"
  spec.initContainers[istio-proxy].resources.requests.cpu: "100m" → "50m"
garrison: 3 with another sidecar than they would get today`)
		c.expect(t, 0, []string{"drift", "-n", "istio-system"}, "")

		// What another configuration would leave behind.
		c.expect(t, 3, []string{"drift", "-n", "shop", "--settings", writeFile(t, oldSettings), "-o", "json"}, "...\n\"pod\": \"new\",\n...")

		out, _, _ := c.run(t, "drift", "-n", "shop", "-o", "yaml")
		var found []drifted
		if err := yaml.UnmarshalStrict([]byte(out), &found); err != nil || len(found) != 2 || len(found[1].Difference) != 4 || found[1].Do == "" ||
			found[1].Reason != "differs in istio-init.image, istio-init.resources, istio-proxy.image, istio-proxy.resources" {
			t.Errorf("%v: %+v", err, found)
		}
	})

	t.Run("page by page", func(t *testing.T) {
		for page, want := range map[int]int{0: 6, 2: 6, 6: 6} {
			seen := map[string]bool{}
			err := (&live{client: c, page: page}).pods(t.Context(), "shop", func(pod json.RawMessage) error {
				seen[string(pod)] = true
				return nil
			})
			if err != nil || len(seen) != want {
				t.Errorf("page of %d: %d pods, want %d, %v", page, len(seen), want, err)
			}
		}
	})

	t.Run("explain", func(t *testing.T) {
		c.expect(t, 0, []string{"explain", "pod", "new", "-n", "shop"}, `
pod shop/new: injected
  called      namespace.sidecar-injector.istio.io of istio-sidecar-injector, served by revision default
  because     the webhook selects it, and nothing speaks against it
  sidecar     native, since every node has Kubernetes 1.33 or newer
              of configuration NEW
  options     sidecar.istio.io/proxyCPU: 50m (mesh), instead of 100m (default)
  templates   sidecar
  holes       none
  now         with the sidecar of configuration NEW, made by revision default
              which is what it would be today`)
		c.expect(t, 0, []string{"explain", "pod/old", "-n", "shop"}, `...
  now         with the sidecar of configuration OLD, made by revision default
              of another configuration than today's, NEW
  differs     spec.initContainers[istio-init].image: "garrison/proxy:v1" → "garrison/proxy:v2"
              spec.initContainers[istio-init].resources.requests.cpu: "100m" → "50m"
              spec.initContainers[istio-proxy].image: "garrison/proxy:v1" → "garrison/proxy:v2"
              spec.initContainers[istio-proxy].resources.requests.cpu: "100m" → "50m"
  to do now   kubectl rollout restart deployment/old -n shop`)
		c.expect(t, 0, []string{"explain", "po", "before", "-n", "shop"}, `...
  now         without the sidecar
              it was made before the namespace was labelled, or while the webhook was not there
  to do now   delete the pod and create it again: nothing makes another`)
		c.expect(t, 0, []string{"explain", "pod", "unlabelled", "-n", "plain"}, `
pod plain/unlabelled: left out
...
  now         with the sidecar of configuration NEW, made by revision default
              today it would be left out: no webhook entry selects it: namespace plain has neither label istio-injection nor istio.io/rev
  to do now   delete the pod and create it again: nothing makes another`)
		c.expect(t, 0, []string{"explain", "pod", "refused", "-n", "shop"}, `
pod shop/refused: refused
  called      namespace.sidecar-injector.istio.io of istio-sidecar-injector, served by revision default
  because     metadata.annotations[sidecar.istio.io/proxyCPU]: "lots" is not a quantity, such as 100m or 128Mi
  options     sidecar.istio.io/proxyCPU: lots (pod), instead of 50m (mesh), 100m (default)
  now         without the sidecar
              today it would be refused: metadata.annotations[sidecar.istio.io/proxyCPU]: "lots" is not a quantity, such as 100m or 128Mi`)
		c.expect(t, 0, []string{"explain", "deployment/web", "-n", "shop"}, "\ndeployment shop/web: injected\n...")
		c.expect(t, 1, []string{"explain", "deploy", "none", "-n", "shop"}, "\n"+`garrison: deployments.apps "none" not found`)
		c.expect(t, 1, []string{"explain", "-f", writeFile(t, "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: none}}")}, "\n"+`garrison: document 1: pod none/a: namespace none: namespaces "none" not found`)

		out, _, _ := c.run(t, "explain", "pod", "old", "-n", "shop", "-o", "json")
		var found []verdict
		if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) != 1 || !found[0].Now.Differs || len(found[0].Now.Difference) != 4 {
			t.Errorf("%v: %s", err, out)
		}
	})

	t.Run("inject", func(t *testing.T) {
		c.expectInjectedAlike(t)

		// A namespace that does not exist yet is as its manifest says, the one that does
		// as it is there.
		file := writeFile(t, "{apiVersion: v1, kind: Namespace, metadata: {name: later, labels: {istio-injection: enabled}}}\n---\n"+
			"{apiVersion: v1, kind: Namespace, metadata: {name: plain, labels: {istio-injection: enabled}}}\n---\n"+
			"{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: later}, spec: {containers: [{name: a, image: a}]}}\n---\n"+
			"{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: plain}, spec: {containers: [{name: a, image: a}]}}\n")
		out, notes, err := c.run(t, "inject", "-f", file)
		if err != nil || strings.Count(out, mesh.Status) != 1 || !strings.HasPrefix(notes, "pod plain/b: left out: ") {
			t.Errorf("%v, %s\n%s", err, notes, out)
		}
	})

	t.Run("overlays", func(t *testing.T) {
		overlays := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mesh.OverlaysConfigMap}, Data: map[string]string{"debug": `{metadata: {labels: {debug: "1"}}}`}}
		if _, err := c.CoreV1().ConfigMaps(mesh.SystemNamespace).Create(t.Context(), overlays, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		file := writeFile(t, `{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {inject.istio.io/templates: "sidecar,debug"}}, spec: {containers: [{name: a, image: a}]}}`)
		c.expect(t, 0, []string{"explain", "-f", file, "-n", "shop"}, "...\n  templates   sidecar, debug\n...")
		overlays.Data["debug"] = "{}"
		if _, err := c.CoreV1().ConfigMaps(mesh.SystemNamespace).Update(t.Context(), overlays, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.expect(t, 1, []string{"explain", "-f", file, "-n", "shop"}, "\n"+`garrison: document 1: pod a: configmap istio-system/garrison-injector-overlays: overlay "debug": is empty`)
		if err := c.CoreV1().ConfigMaps(mesh.SystemNamespace).Delete(t.Context(), overlays.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("older node", func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "elder"}}
		node.Status.NodeInfo.KubeletVersion = "v1.30.4"
		node, err := c.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		node.Spec.Taints = nil // not ready, says the API server
		if _, err := c.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.expect(t, 0, []string{"explain", "pod", "new", "-n", "shop"}, `...
  sidecar     a plain container, since the pod may land on node elder, which has Kubernetes 1.30
...
              which is what it would be today`)
	})

	t.Run("revision", func(t *testing.T) {
		c.install(t, inject.Webhook{Revision: "canary"}, "image: garrison/proxy:v3\nrevision: canary\n")
		c.prepare(t, mesh.Namespace{Name: "early", Labels: map[string]string{mesh.RevisionLabel: "canary"}})
		file := writeFile(t, "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: early}, spec: {containers: [{name: a, image: a}]}}")
		c.expect(t, 0, []string{"explain", "-f", file}, `
pod early/a: injected
  called      rev.namespace.sidecar-injector.istio.io of istio-sidecar-injector-canary, served by revision canary
...`)

		// By another name, which is moved from one to the other.
		prod := inject.Webhook{Tag: "prod"}
		c.prepare(t, mesh.Namespace{Name: "tagged", Labels: map[string]string{mesh.RevisionLabel: prod.Tag}})
		c.createPod(t, newSettings, "{name: moved, namespace: tagged}")
		c.show(t, prod)
		c.expect(t, 0, []string{"drift", "-n", "tagged"}, "")
		c.conceal(t, prod)
		prod.Revision = "canary"
		c.show(t, prod)
		c.expect(t, 3, []string{"drift", "-n", "tagged"}, `
NAMESPACE  POD    OWNER  CONFIGURATION  REASON
tagged     moved  -      NEW            differs in metadata.annotations[istio.io/rev], istio-init.image, istio-init.resources, istio-proxy.image, istio-proxy.resources
garrison: 1 with another sidecar than they would get today`)
		out, _, err := c.run(t, "inject", "-f", file)
		if err != nil || !strings.Contains(out, "garrison/proxy:v3") {
			t.Errorf("%v\n%s", err, out)
		}
	})

	t.Run("another version", func(t *testing.T) {
		deployment := `{"spec":{"template":{"spec":{"containers":[{"name":"injector","image":"registry:5000/garrison/injector:v1.2.4"}]}}}}`
		if _, err := c.AppsV1().Deployments(mesh.SystemNamespace).Patch(t.Context(), "injector", "application/strategic-merge-patch+json", []byte(deployment), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		_, notes, _ := c.run(t, "explain", "pod", "new", "-n", "shop")
		if want := "note: this is garrison v1.2.3, and deployment istio-system/injector runs v1.2.4: what they make may differ\n"; notes != want {
			t.Errorf("%q, want %q", notes, want)
		}
	})

	t.Run("no settings", func(t *testing.T) {
		if err := c.AppsV1().Deployments(mesh.SystemNamespace).Delete(t.Context(), "injector", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.expect(t, 1, []string{"explain", "pod", "new", "-n", "shop"},
			"\ngarrison: settings of revision default: no deployment in istio-system mounts them; --settings takes them from a file")
	})
}

// shop is a cluster with pods in it, and its administrator.
type shop struct {
	lab
	kubeconfig string
	hashes     *strings.Replacer
}

// newShop makes the pods before the webhook is there, which nobody answers for.
func newShop(t *testing.T) shop {
	t.Helper()
	kubeconfig := meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN"))
	client, err := (&access{file: kubeconfig}).client()
	if err != nil {
		t.Fatal(err)
	}
	c := shop{lab: lab{Interface: client}, kubeconfig: kubeconfig, hashes: strings.NewReplacer(hashOf(t, oldSettings), "OLD", hashOf(t, newSettings), "NEW")}
	enabled := map[string]string{mesh.InjectionLabel: "enabled"}
	for _, ns := range []mesh.Namespace{{Name: mesh.SystemNamespace}, {Name: "shop", Labels: enabled}, {Name: "plain"}} {
		c.prepare(t, ns)
	}
	c.createPod(t, newSettings, "{name: new, namespace: shop, generateName: new-}")
	c.createPod(t, oldSettings, "{name: old, namespace: shop, labels: {pod-template-hash: abc}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: old-abc, uid: x, controller: true}]}")
	c.createPod(t, newSettings, "{name: unlabelled, namespace: plain}")
	c.createPod(t, "", "{name: before, namespace: shop}")
	c.createPod(t, "", "{name: refused, namespace: shop, annotations: {sidecar.istio.io/proxyCPU: lots}}")
	c.createPod(t, "", `{name: istio, namespace: shop, annotations: {sidecar.istio.io/status: '{"containers":["istio-proxy"]}'}}`, "istio-proxy")
	ended := c.createPod(t, oldSettings, "{name: ended, namespace: shop}")
	ended.Status.Phase = corev1.PodSucceeded
	if _, err := c.CoreV1().Pods("shop").UpdateStatus(t.Context(), ended, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	web := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
		},
	}}
	if _, err := c.AppsV1().Deployments("shop").Create(t.Context(), web, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func hashOf(t *testing.T, settings string) string {
	t.Helper()
	s, err := parseSettings([]byte(settings))
	if err != nil {
		t.Fatal(err)
	}
	return s.Hash()
}

// createPod has the command inject a pod by settings, unless there are none, and the
// API server take it.
func (c shop) createPod(t *testing.T, settings, metadata string, containers ...string) *corev1.Pod {
	t.Helper()
	manifest := "{apiVersion: v1, kind: Pod, metadata: " + metadata + ", spec: {containers: ["
	for _, name := range append(containers, "web") {
		manifest += fmt.Sprintf("{name: %s, image: i, env: [{name: PASSWORD, value: hunter2}], readinessProbe: {httpGet: {port: 8080, path: /}}},", name)
	}
	manifest += "]}}"
	if settings != "" {
		var out bytes.Buffer
		namespaces := "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio-injection: enabled}}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: plain, labels: {istio-injection: enabled}}}\n" +
			"---\n{apiVersion: v1, kind: Namespace, metadata: {name: tagged, labels: {istio-injection: enabled}}}\n"
		err := Run(t.Context(), Env{In: strings.NewReader(manifest), Out: &out}, "inject", "-f", "-", "--offline",
			"--settings", writeFile(t, settings), "--namespace-file", writeFile(t, namespaces))
		if err != nil {
			t.Fatal(err)
		}
		manifest = out.String()
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(manifest), &pod); err != nil {
		t.Fatal(err)
	}
	created, err := c.CoreV1().Pods(pod.Namespace).Create(t.Context(), &pod, metav1.CreateOptions{FieldValidation: "Strict"})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// install makes what the manifests have of a revision's injector, but nobody who runs it.
func (c shop) install(t *testing.T, w inject.Webhook, settings string) {
	t.Helper()
	name := strings.Replace(w.Service(), mesh.InjectorService, "injector", 1)
	ours := map[string]string{mesh.ManagedByLabel: mesh.ManagedBy, "app": name}
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "garrison-" + name + "-settings-h4sh"}, Data: map[string]string{settingsKey: settings}}
	if _, err := c.CoreV1().ConfigMaps(mesh.SystemNamespace).Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	injector := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: ours}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: ours},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: ours},
			Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "injector", Image: "garrison/injector:v1.2.3"}},
				Volumes: []corev1.Volume{{Name: "settings", VolumeSource: corev1.VolumeSource{
					ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: m.Name}},
				}}},
			},
		},
	}}
	if _, err := c.AppsV1().Deployments(mesh.SystemNamespace).Create(t.Context(), injector, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.show(t, w)
}

// show has the API server show pods to nobody, who stands for a revision's injector.
func (c shop) show(t *testing.T, w inject.Webhook) {
	t.Helper()
	config, err := w.Configuration()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c shop) conceal(t *testing.T, w inject.Webhook) {
	t.Helper()
	config, err := w.Configuration()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(t.Context(), config.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c shop) run(t *testing.T, args ...string) (out, notes string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err = Run(t.Context(), Env{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Kubeconfig: c.kubeconfig, Version: "v1.2.3"}, args...)
	if strings.Contains(stdout.String()+stderr.String(), "hunter2") {
		t.Errorf("%v shows what is the application's:\n%s", args, &stdout)
	}
	return stdout.String(), stderr.String(), err
}

// expect runs a command and compares what it prints, and its error behind that, with
// lines from the second on; one of three dots stands for any. Spaces count as one, and
// hashes read OLD and NEW.
func (c shop) expect(t *testing.T, code int, args []string, want string) {
	t.Helper()
	out, notes, err := c.run(t, args...)
	if err != nil {
		notes += "garrison: " + err.Error() + "\n"
	}
	if ExitCode(err) != code {
		t.Errorf("%v: exit code %d, want %d", args, ExitCode(err), code)
	}
	got, wanted := spaced(c.hashes.Replace(out+notes)), spaced(want)
	if !matches(got, wanted) {
		t.Errorf("%v: -want +got\n%s", args, cmp.Diff(wanted, got))
	}
}

func spaced(text string) []string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func matches(got, want []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "...":
		return matches(got, want[1:]) || len(got) > 0 && matches(got[1:], want)
	}
	return len(got) > 0 && got[0] == want[0] && matches(got[1:], want[1:])
}

// expectInjectedAlike: the cluster's settings give what the same ones give offline.
func (c shop) expectInjectedAlike(t *testing.T) {
	t.Helper()
	file := writeFile(t, "{apiVersion: batch/v1, kind: Job, metadata: {name: a, namespace: shop}, spec: {template: {spec: {containers: [{name: a, image: a}]}}}}")
	live, _, err := c.run(t, "inject", "-f", file)
	offline, _, err2 := c.run(t, "inject", "-f", file, "--offline", "--settings", writeFile(t, newSettings),
		"--namespace-file", writeFile(t, "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio-injection: enabled}}}"))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(offline, live); diff != "" || !strings.Contains(live, "garrison/proxy:v2") {
		t.Errorf("-offline +live\n%s", diff)
	}
}
