package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	testscript.Run(t, params(t, "testdata/scripts"))
}

// TestDisruptive takes servers away, and at last all of Garrison.
func TestDisruptive(t *testing.T) {
	inOrder(t, "testdata/disruptive")
}

// inOrder runs the scripts of dir in the order of their names, each alone. The first
// that fails is the last: it may have left the cluster without a server.
func inOrder(t *testing.T, dir string) {
	t.Helper()
	scripts, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			p := params(t, "")
			p.Files = []string{script}
			testscript.Run(t, p)
		})
		if t.Failed() {
			break
		}
	}
}

func params(t *testing.T, dir string) testscript.Params {
	t.Helper()
	kubeconfig := cluster(t)
	abs := func(path string) string {
		path, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	return testscript.Params{
		Dir:                dir,
		RequireUniqueNames: true,
		TestWork:           os.Getenv("TESTWORK") != "",
		Cmds:               commands,
		Setup: func(env *testscript.Env) error {
			env.Setenv("KUBECONFIG", kubeconfig)
			env.Setenv("CLUSTER", filepath.Base(filepath.Dir(kubeconfig))) // as the lab names it
			env.Setenv("HOME", os.Getenv("HOME"))
			env.Setenv("APPS", abs("testdata/apps"))
			env.Setenv("REPO", abs("../.."))
			env.Setenv("PROTO", os.Getenv("GARRISON_CSR_PROTO"))
			env.Setenv("LEGACY_PROTO", os.Getenv("GARRISON_LEGACY_PROTO"))
			return nil
		},
	}
}

// cluster returns the kubeconfig of the cluster under test, or skips.
func cluster(t *testing.T) string {
	t.Helper()
	kubeconfig := os.Getenv("KUBECONFIG")
	if kubeconfig == "" {
		t.Skip("KUBECONFIG does not name a cluster with Garrison installed; `make test` starts one")
	}
	return kubeconfig
}
