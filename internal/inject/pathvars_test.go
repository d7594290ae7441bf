package inject

import (
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestPathVariables(t *testing.T) {
	many := func(n int) (path string, want []Variable) {
		for i := range n {
			path += fmt.Sprintf("/v%d/x", i)
			want = append(want, Variable{Name: fmt.Sprintf("V%d", i), Value: "x"})
		}
		return path, want
	}
	most, mostVars := many(16)
	for path, want := range map[string][]Variable{
		"":                        nil,
		"/":                       nil,
		"/cluster/east":           {{Name: mesh.ClusterEnv, Value: "east"}},
		"/cluster/east/net/blue/": {{Name: mesh.ClusterEnv, Value: "east"}, {Name: mesh.NetworkEnv, Value: "blue"}},
		"/net/a--slash--b":        {{Name: mesh.NetworkEnv, Value: "a/b"}},
		"/my-own.key/Value_1":     {{Name: "MY_OWN_KEY", Value: "Value_1"}},
		"/a//b/2":                 {{Name: "A", Value: ""}, {Name: "B", Value: "2"}},
		"/a/$(POD_NAME)":          {{Name: "A", Value: "$(POD_NAME)"}},
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
		"/cluster":                               `"cluster" has no value`,
		"/cluster/c/net":                         `"net" has no value`,
		"/a//b/":                                 `"b" has no value`,
		"/" + strings.Repeat("k/v/", 1024) + "k": `more than 4096 bytes`,
		"/" + strings.Repeat("k", 257) + "/v":    `"` + strings.Repeat("k", 64) + `": more than 256 bytes`,
		"/:ENV:cluster":                          `"cluster" is not of the form :ENV:key=value`,
		"/:ENV:=x":                               `a variable has no name`,
		"/a/1//2":                                `a variable has no name`,
		"/1a/x":                                  `"1a" is not the name of a variable`,
		"/a=b/x":                                 `"a=b" is not the name of a variable`,
		"/ä/x":                                   `"ä" is not the name of a variable`,
		"/ca-addr/evil.example:443":              `"ca-addr": CA_ADDR is the injector's to set`,
		"/cluster/a/cluster/b":                   `sets ISTIO_META_CLUSTER_ID twice`,
		"/a-b/1/a.b/2":                           `sets A_B twice`,
		"/cluster/a/ISTIO_META_CLUSTER_ID/b":     `sets ISTIO_META_CLUSTER_ID twice`,
		"/a/x\x00y":                              `"a": the value "x\x00y" is not text`,
		"/a/\xff":                                `"a": the value "\xff" is not text`,
		"/a/" + strings.Repeat("v", 257):         `"a": more than 256 bytes`,
		tooMany:                                  `sets 17 variables, at most 16`,
	} {
		if got, err := PathVariables(path); err == nil || err.Error() != want {
			t.Errorf("%s: %v, %v\nwant %s", path, got, err, want)
		}
	}
}

// TestPathsDoNotSetWhatTheInjectorSets reads the list of its variables where it
// stands, so that one more cannot be forgotten.
func TestPathsDoNotSetWhatTheInjectorSets(t *testing.T) {
	file, err := goparser.ParseFile(token.NewFileSet(), "../mesh/sidecar.go", nil, goparser.SkipObjectResolution)
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
			if !envName.MatchString(v.Name) || !utf8.ValidString(v.Value) || len(v.Value) > 256 ||
				slices.ContainsFunc(vars[:i], func(other Variable) bool { return other.Name == v.Name }) {
				t.Errorf("%q sets %q to %q", path, v.Name, v.Value)
			}
		}
	})
}
