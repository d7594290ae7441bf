package contract

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/agent"
	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The agent refuses to start with a table of probes that it cannot answer truly, or
// with metrics that it cannot ask for, so it must take whatever the injector writes:
// here in all its cases.
func TestAgentTakesWhatTheInjectorWrites(t *testing.T) {
	settings, err := inject.NewSettings(inject.Options{Image: "garrison/proxy:test"})
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob("../../internal/inject/testdata/cases/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	tables, merged := 0, 0
	for _, path := range paths {
		for _, c := range written(t, path, settings) {
			env := map[string]string{}
			for _, v := range c.Env {
				env[v.Name] = v.Value
			}
			port := statusPort(t, c.Args)
			if _, err := agent.ParseProbers(env[mesh.ProbersEnv], port); err != nil {
				t.Errorf("%s: the agent refuses %s: %v", filepath.Base(path), env[mesh.ProbersEnv], err)
			}
			if _, err := agent.ParseMetrics(env[mesh.PrometheusEnv], env[mesh.ScrapeTargetsEnv], port); err != nil {
				t.Errorf("%s: the agent refuses %s, %s: %v", filepath.Base(path), env[mesh.PrometheusEnv], env[mesh.ScrapeTargetsEnv], err)
			}
			if env[mesh.ProbersEnv] != "" {
				tables++
			}
			if env[mesh.PrometheusEnv] != "" {
				merged++
			}
		}
	}
	if tables < 2 || merged < 2 {
		t.Errorf("only %d tables and %d merged metrics in %d cases: nothing was proved", tables, merged, len(paths))
	}
}

// statusPort is the agent's own port by the arguments of the sidecar.
func statusPort(t *testing.T, args []string) uint16 {
	t.Helper()
	for _, arg := range args {
		if text, ok := strings.CutPrefix(arg, "--status-port="); ok {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				t.Fatal(err)
			}
			return uint16(port)
		}
	}
	return mesh.AgentPort
}

// written returns the sidecars that injection gives the pod of a case, none where
// it is refused.
func written(t *testing.T, path string, settings inject.Settings) []corev1.Container {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var sidecars []corev1.Container
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
				if c.Name == mesh.ProxyContainer {
					sidecars = append(sidecars, c)
				}
			}
		}
	}
	return sidecars
}
