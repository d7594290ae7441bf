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

var metricName = regexp.MustCompile(`\b(sidecar_injection|injector|serving_certificate)_[a-z_]+`)

// An alert on a metric that nobody writes never fires.
func TestRulesNameMetricsThatExist(t *testing.T) {
	var source bytes.Buffer
	for _, dir := range []string{"../internal/inject", "../internal/cluster", "../cmd/injector"} {
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
	names := metricName.FindAllString(string(read(t, "monitoring/rules.yaml")), -1)
	if len(names) < 8 {
		t.Errorf("only %q", names)
	}
	for _, name := range names {
		if !bytes.Contains(source.Bytes(), []byte(`"`+strings.TrimSuffix(name, "_bucket")+`"`)) {
			t.Errorf("nothing writes %s", name)
		}
	}
}
