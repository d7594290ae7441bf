package inject

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// steps are all that a patch may consist of, as operations and their paths, in this order.
var steps = []*regexp.Regexp{
	regexp.MustCompile(`^remove /spec/(containers|initContainers)/\d+$`), // the author's istio-proxy and istio-init
	regexp.MustCompile(`^(add|replace|remove) /spec/(containers|initContainers)/\d+/` +
		`((readiness|liveness|startup)Probe|lifecycle/(preStop|postStart))/(httpGet|httpGet/(path|port|scheme)|tcpSocket|grpc)$`),
	regexp.MustCompile(`^remove /metadata/annotations/prometheus[^/]*$`), // in another spelling than the proper one
	regexp.MustCompile(`^add /spec/initContainers(/\d+)?$`),
	regexp.MustCompile(`^add /spec/containers(/\d+)?$`),
	regexp.MustCompile(`^add /spec/volumes(/\d+)?$`),
	regexp.MustCompile(`^add /spec/imagePullSecrets(/\d+)?$`),
	regexp.MustCompile(`^add /metadata/labels(/[^/]+)?$`),
	regexp.MustCompile(`^remove /metadata/annotations` + regexp.QuoteMeta(pointer(mesh.Overrides)) + `$`),
	regexp.MustCompile(`^add /metadata/annotations(/[^/]+)?$`),
}

// expectPositional holds that a patch names single members and elements, in a fixed
// order, and of the author's containers only probes and hooks. Overlays may change
// anything, and a sidecar of another configuration is taken off first.
func (c testCase) expectPositional(t *testing.T, ops []Operation) {
	t.Helper()
	if c.injectedBefore(t) || c.overlaid(t) {
		return
	}
	next := 0
	for i, op := range ops {
		step := op.Op + " " + op.Path
		skipped := slices.IndexFunc(steps[next:], func(s *regexp.Regexp) bool { return s.MatchString(step) })
		if skipped < 0 {
			t.Fatalf("%s: not Garrison's, or not here", step)
		}
		next += skipped
		before, err := Apply(c.pod, ops[:i])
		if err != nil {
			t.Fatal(err)
		}
		path := strings.Split(op.Path, "/")[1:]
		there := object(t, before)[path[0]].(map[string]any)[path[1]]
		switch {
		case len(path) == 2 && !empty(there):
			t.Errorf("%s: instead of %v", step, there)
		case path[0] == "spec" && (op.Op == "remove" || len(path) > 3):
			n, err := strconv.Atoi(path[2])
			if err != nil {
				t.Fatal(err)
			}
			name := there.([]any)[n].(map[string]any)["name"].(string)
			if whole := len(path) == 3; whole != own(name) {
				t.Errorf("%s: which is of %s", step, name)
			}
		}
	}
}

// expectMinimal holds that no operation could be left out. The author's own istio-proxy is
// taken out also where it leaves a list empty, which is then written whole.
func (c testCase) expectMinimal(t *testing.T, r result) {
	t.Helper()
	if c.injectedBefore(t) {
		return
	}
	want := object(t, r.pod)
	for i, op := range r.Ops {
		if steps[0].MatchString(op.Op + " " + op.Path) {
			continue
		}
		less, err := Apply(c.pod, slices.Delete(slices.Clone(r.Ops), i, i+1))
		if err == nil && reflect.DeepEqual(object(t, less), want) {
			t.Errorf("%s %s changes nothing", op.Op, op.Path)
		}
	}
}

func (c testCase) injectedBefore(t *testing.T) bool {
	t.Helper()
	_, ok := c.parsed(t).meta.Annotations[mesh.Status]
	return ok
}

func (c testCase) overlaid(t *testing.T) bool {
	t.Helper()
	e, err := newEdit(c.parsed(t), c.at, c.settings)
	if err != nil {
		t.Fatal(err)
	}
	return len(e.chosen) > 0
}

func (c testCase) parsed(t *testing.T) *Pod {
	t.Helper()
	p, err := ParsePod(c.pod)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
