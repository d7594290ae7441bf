package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite what the scripts in testdata compare with")

// TestScripts runs testdata: what a user types, and what comes of it. Beside
// testscript's own verbs there is `garrison`, which runs the command in this process,
// and may fail where the next line is `exits` with the code that it must end with. Its
// input is the file that the variable input names. `cluster` starts a cluster for it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"garrison": garrison, "exits": exits, "cluster": startCluster},
	})
}

func garrison(ts *testscript.TestScript, neg bool, args []string) {
	input := ""
	if name := ts.Getenv("input"); name != "" {
		input = ts.ReadFile(name)
	}
	err := Run(context.Background(), Env{
		In: strings.NewReader(input), Out: ts.Stdout(), Err: ts.Stderr(),
		Kubeconfig: ts.Getenv("KUBECONFIG"), Version: "v1.2.3",
	}, args...)
	if err != nil {
		fmt.Fprintln(ts.Stderr(), "garrison: "+err.Error())
	}
	ts.Setenv("exit", strconv.Itoa(ExitCode(err)))
	switch {
	case err != nil && !neg:
		ts.Fatalf("garrison: %v", err)
	case err == nil && neg:
		ts.Fatalf("garrison: no error")
	}
}

// exits checks the code of the garrison before it.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if got := ts.Getenv("exit"); len(args) != 1 || got != args[0] {
		ts.Fatalf("exit code %s, want %v", got, args)
	}
}

func TestExitCode(t *testing.T) {
	plain := errors.New("x")
	for want, err := range map[int]error{
		0: nil,
		1: plain,
		2: fmt.Errorf("outer: %w", usageError{plain}),
		3: fmt.Errorf("outer: %w", foundError{plain}),
	} {
		if got := ExitCode(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
		if err != nil && !errors.Is(err, plain) {
			t.Errorf("%v: hides its cause", err)
		}
	}
}

// No arguments are none, and not those of the process.
func TestRunWithoutArguments(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Env{Out: &out, Err: io.Discard}); err != nil || !strings.Contains(out.String(), "Usage:\n  garrison") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// A result that cannot be written is an error: a script would go on with half of it.
func TestOutputFails(t *testing.T) {
	settings := writeFile(t, "image: a/b:c\n")
	pod := writeFile(t, "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Pod, metadata: {namespace: a}, spec: {containers: [{name: c}]}}\n")
	offline := []string{"-f", pod, "--offline", "--settings", settings}
	for _, args := range [][]string{
		{"version"}, {"manifests", "webhook"}, {"uninject", "-f", pod}, append([]string{"inject"}, offline...),
		append([]string{"explain"}, offline...), append([]string{"explain", "-o=yaml"}, offline...),
	} {
		if err := Run(t.Context(), Env{Out: full{}, Err: io.Discard}, args...); !errors.Is(err, errFull) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

var errFull = errors.New("disk full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
