package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Which objects carry pods, by their kind and the group of its API.
func TestCarriers(t *testing.T) {
	for object, want := range map[string]string{
		`{kind: Pod, apiVersion: v1, metadata: {name: a, namespace: b}}`:                                            "pod b/a",
		`{kind: Deployment, apiVersion: apps/v1, metadata: {name: a}}`:                                              "deployment a",
		`{kind: Deployment, apiVersion: extensions/v1beta1, metadata: {name: a}}`:                                   "deployment a",
		`{kind: Rollout, apiVersion: argoproj.io/v1alpha1, metadata: {name: a}}`:                                    "rollout a",
		`{kind: Deployment, apiVersion: example.com/v1, metadata: {name: a}}`:                                       "",
		`{kind: Pod, apiVersion: metrics/v1, metadata: {name: a}}`:                                                  "",
		`{kind: Job, metadata: {name: a}}`:                                                                          "",
		`{kind: List, apiVersion: v1, items: [{kind: Pod, apiVersion: v1, metadata: {name: a}}, {kind: Service}]}`:  "pod a",
		`{kind: PodList, apiVersion: v1, items: [{metadata: {name: a}}, {metadata: {name: b}}]}`:                    "pod a, pod b",
		`{kind: CronJobList, apiVersion: batch/v1, items: [{metadata: {name: a}}]}`:                                 "cronjob a",
		`{kind: List, apiVersion: v1, items: [{kind: PodList, apiVersion: v1, items: [{metadata: {name: a}}, 1]}]}`: "pod a",
		`{kind: List, apiVersion: v1, items: 1}`:                                                                    "",
		`{}`:                                                                                                        "",
	} {
		o, err := document{body: []byte(object)}.object()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range carriers(o) {
			names = append(names, c.String())
		}
		if got := strings.Join(names, ", "); got != want {
			t.Errorf("%s: %q, want %q", object, got, want)
		}
	}
}

// What is made up of a ReplicaSet's name is not part of the Deployment's.
func TestMadeUpNames(t *testing.T) {
	for _, k := range kinds() {
		pod, err := document{body: []byte(barePod)}.object()
		if err != nil {
			t.Fatal(err)
		}
		c := workload(t, k, pod)
		meta, _ := c.object["metadata"].(map[string]any)
		meta["name"] = "web-" + madeUp
		if _, err := installedIn(t, "shop").inject(t.Context(), c, io.Discard); err != nil {
			t.Fatal(err)
		}
		at, err := c.at()
		if err != nil {
			t.Fatal(err)
		}
		labels, _ := at["metadata"].(map[string]any)["labels"].(map[string]any)
		if got := labels[mesh.CanonicalName]; got != "web-"+madeUp {
			t.Errorf("%s web-%s: canonical name %v", k.name, madeUp, got)
		}
	}
}

// controllers says what the pods of a workload named web look like when their
// controller creates them.
var controllers = map[string]string{
	"Deployment":            `{generateName: web-6d4b75cb6d-, labels: {pod-template-hash: 6d4b75cb6d}, ownerReferences: [{kind: ReplicaSet, name: web-6d4b75cb6d, controller: true}]}`,
	"Rollout":               `{generateName: web-6d4b75cb6d-, labels: {rollouts-pod-template-hash: 6d4b75cb6d}, ownerReferences: [{kind: ReplicaSet, name: web-6d4b75cb6d, controller: true}]}`,
	"ReplicaSet":            `{generateName: web-, ownerReferences: [{kind: ReplicaSet, name: web, controller: true}]}`,
	"ReplicationController": `{generateName: web-, ownerReferences: [{kind: ReplicationController, name: web, controller: true}]}`,
	"StatefulSet":           `{name: web-3, labels: {statefulset.kubernetes.io/pod-name: web-3, controller-revision-hash: a, apps.kubernetes.io/pod-index: "3"}, ownerReferences: [{kind: StatefulSet, name: web, controller: true}]}`,
	"DaemonSet":             `{generateName: web-, labels: {controller-revision-hash: a}, ownerReferences: [{kind: DaemonSet, name: web, controller: true}]}`,
	"Job":                   `{generateName: web-, labels: {job-name: web, batch.kubernetes.io/job-name: web, controller-uid: a, batch.kubernetes.io/controller-uid: a}, ownerReferences: [{kind: Job, name: web, controller: true}]}`,
	"CronJob":               `{generateName: web-29000000-, labels: {job-name: web-29000000, batch.kubernetes.io/job-name: web-29000000, controller-uid: a, batch.kubernetes.io/controller-uid: a}, ownerReferences: [{kind: Job, name: web-29000000, controller: true}]}`,
}

// TestTemplatesAreInjectedAsTheirPods is the law of the command: what it makes of a
// template is what the webhook makes of the pods of that template, over all cases of
// package inject and all kinds; and again the same when it was taken off.
func TestTemplatesAreInjectedAsTheirPods(t *testing.T) {
	paths, err := filepath.Glob("../inject/testdata/cases/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	injections := 0
	for _, path := range paths {
		i, pod := readCase(t, path)
		for _, k := range kinds() {
			t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar")+"/"+k.name, func(t *testing.T) {
				if expectAsItsPod(t, i, k, pod) {
					injections++
				}
			})
		}
	}
	if injections < 100 {
		t.Errorf("only %d were injected", injections)
	}
}

// readCase reads a case of package inject, whose test says what is in it.
func readCase(t *testing.T, path string) (*installation, map[string]any) {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ns := mesh.Namespace{Name: "shop"}
	options := inject.Options{Image: "garrison/proxy:test"}
	entry := admissionregistrationv1.MutatingWebhook{Name: "all", Rules: []admissionregistrationv1.RuleWithOperations{{
		Operations: []admissionregistrationv1.OperationType{"*"}, Rule: admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}},
	}}}
	i := &installation{overlays: &inject.Overlays{}, settings: map[string]inject.Settings{}}
	var pod map[string]any
	for _, f := range archive.Files {
		var err error
		switch f.Name {
		case "pod.yaml":
			pod, err = document{body: f.Data}.object()
		case "namespace.yaml":
			err = yaml.UnmarshalStrict(f.Data, &ns)
		case "nodes.yaml":
			err = yaml.UnmarshalStrict(f.Data, &i.older)
		case "path":
			url := "https://injector" + mesh.InjectPath + "/" + strings.TrimPrefix(strings.TrimSpace(string(f.Data)), "/")
			entry.ClientConfig.URL = &url
		case "settings.yaml":
			err = yaml.UnmarshalStrict(f.Data, &options)
		case "overlays.yaml":
			var data map[string]string
			if err = yaml.UnmarshalStrict(f.Data, &data); err == nil {
				*i.overlays, err = inject.ParseOverlays(data)
			}
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", path, f.Name, err)
		}
	}
	settings, err := inject.NewSettings(options)
	if err != nil {
		t.Fatal(err)
	}
	config := &admissionregistrationv1.MutatingWebhookConfiguration{Webhooks: []admissionregistrationv1.MutatingWebhook{entry}}
	config.Labels = map[string]string{mesh.RevisionLabel: settings.Revision()}
	i.webhooks = []*admissionregistrationv1.MutatingWebhookConfiguration{config}
	i.given = map[string]inject.Settings{settings.Revision(): settings}
	i.fallback, i.namespaces = ns.Name, map[string]mesh.Namespace{ns.Name: ns}
	return i, pod
}

// workload returns an object of a kind with a pod in it.
func workload(t *testing.T, k kind, pod map[string]any) carrier {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	object, err := document{body: raw}.object()
	if err != nil {
		t.Fatal(err)
	}
	if k.path == nil {
		return carrier{k, object}
	}
	for _, name := range slices.Backward(k.path) {
		object = map[string]any{name: object}
	}
	object["metadata"] = map[string]any{"name": "web"}
	return carrier{k, object}
}

func expectAsItsPod(t *testing.T, i *installation, k kind, pod map[string]any) bool {
	t.Helper()
	c, same := workload(t, k, pod), workload(t, k, pod)

	// What the controller creates, and what the webhook makes of that.
	created := workload(t, kinds()[0], pod)
	if k.path != nil {
		adopt(t, created.object, controllers[k.name])
	}
	raw, err := json.Marshal(created.object)
	if err != nil {
		t.Fatal(err)
	}
	j, err := i.judge(t.Context(), i.namespaces[i.fallback], raw)
	if err != nil {
		t.Fatal(err)
	}

	var notes bytes.Buffer
	changed, err := i.inject(t.Context(), c, &notes)
	if j.outcome != injected || len(j.Injection.Ops) == 0 {
		if changed || (err != nil) != (j.outcome == refused) || !cmp.Equal(c.object, same.object) {
			t.Errorf("the webhook says %s, %s; injected: %v, %v", j.outcome, j.why, changed, err)
		}
		return false
	}
	if err != nil || !changed {
		t.Fatalf("%v, changed: %v", err, changed)
	}
	edited, err := inject.Apply(raw, j.Injection.Ops)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(edited, &want); err != nil {
		t.Fatal(err)
	}
	got, err := c.at()
	if err != nil {
		t.Fatal(err)
	}
	if k.path != nil {
		disown(t, want, pod, controllers[k.name])
	}
	if diff := cmp.Diff(normal(t, want), normal(t, got)); diff != "" {
		t.Errorf("-as its pod +injected\n%s", diff)
	}

	once := normal(t, c.object)
	if again, err := i.inject(t.Context(), c, &notes); err != nil || again {
		t.Errorf("injected again: %v, %v", again, err)
	}
	if off, err := uninject(c); err != nil || !off {
		t.Errorf("taken off: %v, %v", off, err)
	}
	if raw, err := c.pod("shop"); err != nil || isInjected(raw) {
		t.Errorf("still with a record: %v", err)
	}
	if _, err := i.inject(t.Context(), c, &notes); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(once, normal(t, c.object)); diff != "" {
		t.Errorf("taken off and injected: -once +again\n%s", diff)
	}
	return true
}

// adopt writes what a controller does into a pod's metadata.
func adopt(t *testing.T, pod map[string]any, controller string) {
	t.Helper()
	made, err := document{body: []byte(controller)}.object()
	if err != nil || made == nil {
		t.Fatalf("no controller: %v", err)
	}
	meta, _ := pod["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
	}
	pod["metadata"] = meta
	labels, _ := meta["labels"].(map[string]any)
	if labels == nil {
		labels = map[string]any{}
	}
	if added, ok := made["labels"].(map[string]any); ok {
		for name, value := range added {
			if _, there := labels[name]; !there {
				labels[name] = value
			}
		}
	}
	delete(meta, "name")
	delete(meta, "generateName")
	maps.Copy(meta, made)
	meta["labels"] = labels
}

// disown takes it off again.
func disown(t *testing.T, pod, was map[string]any, controller string) {
	t.Helper()
	made, err := document{body: []byte(controller)}.object()
	if err != nil {
		t.Fatal(err)
	}
	meta := pod["metadata"].(map[string]any)
	before, _ := was["metadata"].(map[string]any)
	had, _ := before["labels"].(map[string]any)
	if added, ok := made["labels"].(map[string]any); ok {
		for name := range added {
			if _, there := had[name]; !there {
				delete(meta["labels"].(map[string]any), name)
			}
		}
	}
	for _, name := range []string{"name", "generateName", "ownerReferences"} {
		delete(meta, name)
		if value, ok := before[name]; ok {
			meta[name] = value
		}
	}
}

// normal spells equal documents alike.
func normal(t *testing.T, object map[string]any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
