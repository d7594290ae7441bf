package manifests_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The operator of Prometheus finds both servers by their Services.
func TestServiceMonitor(t *testing.T) {
	var m struct {
		Spec struct {
			Selector struct {
				MatchExpressions []struct {
					Key    string
					Values []string
				}
			}
			Endpoints []struct{ Port, Path string }
		}
	}
	if err := yaml.Unmarshal(read(t, "monitoring/servicemonitor.yaml"), &m); err != nil {
		t.Fatal(err)
	}
	apps := m.Spec.Selector.MatchExpressions[0].Values
	found := 0
	for _, s := range all[*corev1.Service](t) {
		if !slices.Contains(apps, s.Labels["app"]) {
			continue
		}
		for _, p := range s.Spec.Ports {
			if p.Name == m.Spec.Endpoints[0].Port && p.Port == mesh.MonitorPort {
				found++
			}
		}
	}
	if found != len(all[*appsv1.Deployment](t)) {
		t.Errorf("%d of the servers are found", found)
	}
	if selector := labels.SelectorFromSet(labels.Set{"app": "injector"}); !selector.Matches(labels.Set(named(t, all[*corev1.Service](t), mesh.InjectorService).Labels)) {
		t.Error("the injector's Service has not the label that the monitor selects by")
	}
}

var metricName = regexp.MustCompile(`\b(sidecar_injection|injector|serving_certificate|citadel)_[a-z_]+`)

// An alert on a metric that nobody writes never fires.
func TestRulesNameMetricsThatExist(t *testing.T) {
	var source bytes.Buffer
	for _, dir := range []string{"../internal/inject", "../internal/cluster", "../internal/ca", "../internal/serve", "../cmd/injector", "../cmd/citadel"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				source.Write(text)
			}
		}
	}
	for file, least := range map[string]int{"monitoring/rules.yaml": 8, "monitoring/citadel.yaml": 20} {
		names := metricName.FindAllString(string(read(t, file)), -1)
		if len(names) < least {
			t.Errorf("%s: only %q", file, names)
		}
		for _, name := range names {
			// Namespace and subsystem may stand apart.
			short := strings.TrimPrefix(strings.TrimPrefix(name, "citadel_server_"), "citadel_ca_")
			if !bytes.Contains(source.Bytes(), []byte(`"`+strings.TrimSuffix(name, "_bucket")+`"`)) &&
				!bytes.Contains(source.Bytes(), []byte(`"`+short+`"`)) {
				t.Errorf("nothing writes %s", name)
			}
		}
	}
}

// Whoever is woken is told what it means and where to look, and by which severity; the
// kustomization has all files.
func TestRulesSayWhatToDo(t *testing.T) {
	type rule struct {
		Alert, Expr         string
		Labels, Annotations map[string]string
	}
	severities := []string{"info", "warning", "critical"}
	seen := map[string]bool{}
	for _, file := range []string{"rules.yaml", "citadel.yaml"} {
		var r struct {
			Spec struct {
				Groups []struct {
					Name  string
					Rules []rule
				}
			}
		}
		if err := yaml.Unmarshal(read(t, "monitoring/"+file), &r); err != nil {
			t.Fatal(err)
		}
		for _, g := range r.Spec.Groups {
			for _, a := range g.Rules {
				key := a.Alert + " " + a.Labels["severity"]
				switch {
				case seen[key]:
					t.Errorf("%s is there twice", key)
				case !slices.Contains(severities, a.Labels["severity"]), a.Expr == "",
					!strings.HasSuffix(a.Annotations["summary"], "."), !strings.HasSuffix(a.Annotations["description"], "."):
					t.Errorf("%s: %+v", key, a)
				case strings.Count(a.Expr, "(") != strings.Count(a.Expr, ")"):
					t.Errorf("%s: %s", key, a.Expr)
				}
				seen[key] = true
			}
		}
		if !strings.Contains(string(read(t, "monitoring/kustomization.yaml")), "\n- "+file+"\n") {
			t.Errorf("the kustomization has not %s", file)
		}
	}
	if len(seen) < 25 {
		t.Errorf("%d alerts", len(seen))
	}
}
