package inject

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestPathVariables(t *testing.T) {
	many := func(n int) (path string, want []corev1.EnvVar) {
		for i := range n {
			path += fmt.Sprintf("/v%d/x", i)
			want = append(want, corev1.EnvVar{Name: fmt.Sprintf("V%d", i), Value: "x"})
		}
		return path, want
	}
	most, mostVars := many(16)
	for path, want := range map[string][]corev1.EnvVar{
		"":                        nil,
		"/":                       nil,
		"/cluster/east":           {{Name: mesh.ClusterEnv, Value: "east"}},
		"/cluster/east/net/blue/": {{Name: mesh.ClusterEnv, Value: "east"}, {Name: mesh.NetworkEnv, Value: "blue"}},
		"/net/a--slash--b":        {{Name: mesh.NetworkEnv, Value: "a/b"}},
		"/my-own.key/Value_1":     {{Name: "MY_OWN_KEY", Value: "Value_1"}},
		"/a//b/2":                 {{Name: "A", Value: ""}, {Name: "B", Value: "2"}},
		"/a/$(POD_NAME)":          {{Name: "A", Value: "$$(POD_NAME)"}},
		"/:ENV:cluster=east:ENV:net=a/b=c:ENV:my_key=": {
			{Name: mesh.ClusterEnv, Value: "east"}, {Name: mesh.NetworkEnv, Value: "a/b=c"}, {Name: "MY_KEY"},
		},
		"/:ENV:a=x--slash--y":            {{Name: "A", Value: "x--slash--y"}},
		"/a/" + strings.Repeat("é", 128): {{Name: "A", Value: strings.Repeat("é", 128)}},
		most:                             mostVars,
	} {
		got, err := PathVariables(path)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", path, err, diff)
		}
	}
}

func TestPathVariablesRefuses(t *testing.T) {
	tooMany := strings.Repeat("/a/b", 17)
	for path, want := range map[string]string{
		"/cluster":                               `path: "cluster" has no value`,
		"/cluster/c/net":                         `path: "net" has no value`,
		"/a//b/":                                 `path: "b" has no value`,
		"/" + strings.Repeat("k/v/", 1024) + "k": `path: more than 4096 bytes`,
		"/" + strings.Repeat("k", 257) + "/v":    `path: "` + strings.Repeat("k", 64) + `": more than 256 bytes`,
		"/:ENV:cluster":                          `path: "cluster" is not of the form :ENV:key=value`,
		"/:ENV:=x":                               `path: a variable has no name`,
		"/a/1//2":                                `path: a variable has no name`,
		"/1a/x":                                  `path: "1a" is not the name of a variable`,
		"/a=b/x":                                 `path: "a=b" is not the name of a variable`,
		"/ä/x":                                   `path: "ä" is not the name of a variable`,
		"/ca-addr/evil.example:443":              `path: "ca-addr": CA_ADDR is the injector's to set`,
		"/cluster/a/cluster/b":                   `path: sets ISTIO_META_CLUSTER_ID twice`,
		"/a-b/1/a.b/2":                           `path: sets A_B twice`,
		"/cluster/a/ISTIO_META_CLUSTER_ID/b":     `path: sets ISTIO_META_CLUSTER_ID twice`,
		"/a/x\x00y":                              `path: "a": the value "x\x00y" is not text`,
		"/a/\xff":                                `path: "a": the value "\xff" is not text`,
		"/a/" + strings.Repeat("v", 257):         `path: "a": more than 256 bytes`,
		tooMany:                                  `path: sets 17 variables, at most 16`,
	} {
		if got, err := PathVariables(path); err == nil || err.Error() != want {
			t.Errorf("%s: %v, %v\nwant %s", path, got, err, want)
		}
	}
}

// TestPathsDoNotSetWhatTheInjectorSets reads the list of its variables where it
// stands, so that one more cannot be forgotten.
func TestPathsDoNotSetWhatTheInjectorSets(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../mesh/sidecar.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var own int
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasSuffix(spec.Names[0].Name, "Env") {
			return true
		}
		name, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		_, err = PathVariables("/" + strings.ToLower(name) + "/x")
		if open := slices.Contains([]string{mesh.ClusterEnv, mesh.NetworkEnv}, name); open != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		own++
		return true
	})
	if own < 10 {
		t.Errorf("found %d variables; the rule would hold of nothing", own)
	}
}

// FuzzPathVariables: whatever the path, what comes out can be set on a container.
func FuzzPathVariables(f *testing.F) {
	for _, path := range []string{"/cluster/c/net/n", "/:ENV:a=b:ENV:c=d", "/a/--slash--", "//", "/a.b/$(X)"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		vars, err := PathVariables(path)
		if err != nil && (vars != nil || len(err.Error()) > 2000) {
			t.Errorf("%q: %v beside an error of %d bytes", path, vars, len(err.Error()))
		}
		if len(vars) > 16 {
			t.Errorf("%q sets %d variables", path, len(vars))
		}
		for i, v := range vars {
			if !envName.MatchString(v.Name) || len(v.Value) > 512 || strings.Contains(strings.ReplaceAll(v.Value, "$$", ""), "$") ||
				slices.ContainsFunc(vars[:i], func(other corev1.EnvVar) bool { return other.Name == v.Name }) {
				t.Errorf("%q sets %q to %q", path, v.Name, v.Value)
			}
		}
	})
}
