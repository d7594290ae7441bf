package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/garrison-mesh/garrison/"

// mayImport lists, for every package of the product, the packages of ours that it
// may import. Arrows point down and never turn back; product packages (inject, ca,
// agent) never import one another. A package that is not listed has no place yet.
var mayImport = map[string][]string{
	"internal/identity":  {},
	"internal/mesh":      {"internal/identity"},
	"internal/ledger":    {},
	"internal/elapsed":   {},
	"internal/recent":    {},
	"internal/remote":    {},
	"internal/serve":     {"internal/recent", "internal/remote"},
	"internal/admission": {"internal/mesh", "internal/identity"},
	"internal/cluster":   {"internal/elapsed", "internal/recent", "internal/mesh", "internal/identity"},
	"internal/inject":    {"internal/admission", "internal/mesh", "internal/identity"},
	"internal/ca":        {"api/legacycsr", "internal/elapsed", "internal/ledger", "internal/recent", "internal/remote", "internal/mesh", "internal/identity"},
	"internal/agent":     {"internal/serve", "internal/mesh", "internal/identity"},
	"internal/meshtest":  {"internal/mesh", "internal/identity"},

	// The operator's commands show what the servers decide, so they may use them all.
	"internal/cli": {"internal/inject", "internal/ca", "internal/agent", "internal/admission", "internal/cluster", "internal/ledger", "internal/mesh", "internal/identity"},

	"cmd/injector": {"internal/inject", "internal/admission", "internal/cluster", "internal/serve", "internal/mesh", "internal/identity"},
	"cmd/citadel":  {"api/legacycsr", "internal/ca", "internal/ledger", "internal/cluster", "internal/serve", "internal/mesh", "internal/identity"},
	"cmd/agent":    {"internal/agent", "internal/serve", "internal/mesh", "internal/identity"},
	"cmd/garrison": {"internal/cli"},
}

// never lists what a package must not reach, even through others.
var never = []struct{ pkg, dep, why string }{
	{"internal/identity", "k8s.io/", "identities are the standard library's business only"},
	{"internal/ledger", "k8s.io/", "whoever checks a log must be able to without a cluster"},
	{"internal/mesh", "k8s.io/", "names must be usable by the agent, which knows no Kubernetes API"},
	{"internal/serve", "k8s.io/", "a server's life cycle has nothing to do with Kubernetes"},
	{"internal/agent", "k8s.io/", "it runs in every pod and has no business with the API server"},
	{"cmd/agent", "k8s.io/", "it runs in every pod and has no business with the API server"},
}

// clientGo lists who may reach client-go, even through others: the one door to the
// API server, the commands that open it, and the operator's, which goes in with the
// operator's own rights. All else must build and test without a cluster.
var clientGo = []string{"internal/cluster", "internal/cli", "cmd/injector", "cmd/citadel", "cmd/garrison"}

// drawers are names that say nothing about what is inside.
var drawers = []string{"util", "utils", "common", "helper", "helpers", "pkg", "misc", "shared"}

// maxMain is the length of a main.go in lines: construct, then serve.
const maxMain = 80

type listed struct {
	ImportPath, Dir, Doc, Name string
	GoFiles, Imports, Deps     []string
}

func (p listed) path() string { return strings.TrimPrefix(p.ImportPath, module) }

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Dir,Doc,Name,GoFiles,Imports,Deps", module+"...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 5 {
		t.Fatalf("go list found %d packages; the rules would hold of nothing", len(pkgs))
	}
	return pkgs
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// product reports whether the dependency rule holds for a package: tests and
// tools outside internal and cmd may import what they test.
func product(path string) bool {
	return strings.HasPrefix(path, "internal/") || strings.HasPrefix(path, "cmd/")
}

func TestDependencyRule(t *testing.T) {
	for _, p := range list(t) {
		if !product(p.path()) {
			continue
		}
		allowed, placed := mayImport[p.path()]
		if !placed {
			t.Errorf("%s: has no place in the dependency rule; give it one in mayImport", p.path())
			continue
		}
		for _, imp := range p.Imports {
			own, ours := strings.CutPrefix(imp, module)
			if ours && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s; it may import %v", p.path(), own, allowed)
			}
		}
	}
}

func TestNever(t *testing.T) {
	byPath := map[string]listed{}
	for _, p := range list(t) {
		byPath[p.path()] = p
	}
	for _, rule := range never {
		p, ok := byPath[rule.pkg]
		if !ok {
			t.Errorf("rule about %s, which does not exist", rule.pkg)
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, rule.dep) {
				t.Errorf("%s reaches %s: %s", rule.pkg, dep, rule.why)
				break
			}
		}
	}
}

func TestOneDoorToTheAPIServer(t *testing.T) {
	for _, p := range list(t) {
		if !product(p.path()) || slices.Contains(clientGo, p.path()) {
			continue
		}
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "k8s.io/client-go/") {
				t.Errorf("%s reaches %s; only %v may", p.path(), dep, clientGo)
				break
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range list(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.Dir) + " "
		}
		if len(p.GoFiles) > 0 && !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: package comment does not begin with %q", p.path(), want)
		}
		for part := range strings.SplitSeq(p.path(), "/") {
			if slices.Contains(drawers, part) {
				t.Errorf("%s: name it for the thing in it, not %q", p.path(), part)
			}
		}
	}
}

func TestTestHelpersStayInTests(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(p.Imports, module+"internal/meshtest") {
			t.Errorf("%s imports internal/meshtest outside its tests", p.path())
		}
	}
}

// TestNoHiddenInputs holds that a package's behaviour comes from its arguments:
// no init, and no reading of the environment except in cmd.
func TestNoHiddenInputs(t *testing.T) {
	env := map[string]bool{"Getenv": true, "LookupEnv": true, "Environ": true, "ExpandEnv": true}
	for _, p := range list(t) {
		if !product(p.path()) {
			continue
		}
		for _, f := range p.GoFiles {
			name := filepath.Join(p.Dir, f)
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Name.Name == "init" && n.Recv == nil {
						t.Errorf("%s: init runs before anyone asked for it", fset.Position(n.Pos()))
					}
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" && env[n.Sel.Name] && !strings.HasPrefix(p.path(), "cmd/") {
						t.Errorf("%s: os.%s below cmd; take it as an argument", fset.Position(n.Pos()), n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// TestTestsDoNotSleep holds that a test waits for the thing itself: only in the fake
// time of synctest does sleeping cost nothing and prove something.
func TestTestsDoNotSleep(t *testing.T) {
	for _, p := range list(t) {
		names, err := filepath.Glob(filepath.Join(p.Dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(src, []byte("\ttime."+"Sleep(")) && !bytes.Contains(src, []byte(`"testing/synctest"`)) {
				t.Errorf("%s sleeps outside synctest", strings.TrimPrefix(name, root(t)+"/"))
			}
		}
	}
}

func TestMainsAreThin(t *testing.T) {
	mains, err := filepath.Glob(filepath.Join(root(t), "cmd", "*", "main.go"))
	if err != nil || len(mains) == 0 {
		t.Fatalf("no mains: %v", err)
	}
	for _, name := range mains {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(src, []byte("\n")); n > maxMain {
			t.Errorf("%s: %d lines, at most %d", name, n, maxMain)
		}
	}
}

// TestRulesAreAlive fails when a rule speaks of a package that is gone, so that
// the tables cannot rot.
func TestRulesAreAlive(t *testing.T) {
	exists := map[string]bool{}
	for _, p := range list(t) {
		exists[p.path()] = true
	}
	for _, path := range slices.Sorted(maps.Keys(mayImport)) {
		if !exists[path] {
			t.Errorf("mayImport speaks of %s, which does not exist", path)
		}
	}
}
