package contract

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/agent"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The agent refuses to start with a table of probes that it cannot answer truly, so
// it must take every table that the injector writes: here those of all its cases.
func TestAgentTakesTheInjectorsProbes(t *testing.T) {
	settings, err := inject.NewSettings(inject.Options{Image: "garrison/proxy:test"})
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob("../../internal/inject/testdata/cases/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	for _, path := range paths {
		for _, table := range written(t, path, settings) {
			tables++
			if _, err := agent.ParseProbers(table, mesh.AgentPort); err != nil {
				t.Errorf("%s: the agent refuses %s: %v", filepath.Base(path), table, err)
			}
		}
	}
	if tables < 2 {
		t.Errorf("only %d tables in %d cases: nothing was proved", tables, len(paths))
	}
}

// written returns the tables that injection gives the pod of a case, none where it
// is refused.
func written(t *testing.T, path string, settings inject.Settings) []string {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for _, f := range archive.Files {
		if f.Name != "pod.yaml" {
			continue
		}
		raw, err := yaml.YAMLToJSON(f.Data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		pod, err := inject.ParsePod(raw)
		if err != nil {
			continue
		}
		injection, err := inject.Edit(pod, inject.Situation{Namespace: mesh.Namespace{Name: "shop"}}, settings)
		if err != nil {
			continue
		}
		for _, op := range injection.Ops {
			var added []corev1.Container
			var one corev1.Container
			if json.Unmarshal(op.Value, &added) != nil && json.Unmarshal(op.Value, &one) == nil {
				added = []corev1.Container{one}
			}
			for _, c := range added {
				for _, env := range c.Env {
					if env.Name == mesh.ProbersEnv {
						tables = append(tables, env.Value)
					}
				}
			}
		}
	}
	return tables
}
