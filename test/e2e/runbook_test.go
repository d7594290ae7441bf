package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// runbook SECTION N [PLACEHOLDER=VALUE…] runs the Nth block of commands of a section of
// docs/ca-runbook.md in $WORK, as it stands there, after those that the document gives
// for everywhere, which stay in runbook.sh for what comes between. What the document
// calls `make install` takes the rendered manifests, those in $WORK where there are any.
func runbook(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: runbook section n [placeholder=value...]")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	text := ts.ReadFile(filepath.Join(ts.Getenv("REPO"), "docs/ca-runbook.md"))
	everywhere, err := commandBlock(text, "", 1)
	ts.Check(err)
	block, err := commandBlock(text, args[0], n)
	ts.Check(err)
	for _, arg := range args[2:] {
		placeholder, value, _ := strings.Cut(arg, "=")
		if !strings.Contains(block, placeholder) {
			ts.Fatalf("no %s in block %d of %q:\n%s", placeholder, n, args[0], block)
		}
		block = strings.ReplaceAll(block, placeholder, value)
	}
	const installed = "make() { if [ -d manifests ]; then export MANIFESTS=$PWD/manifests; fi; \"$REPO/hack/$1\"; }\n"
	ts.Check(os.WriteFile(ts.MkAbs("runbook.sh"), []byte(everywhere+installed), 0o600))
	out, err := run(ts, nil, "bash", "-euo", "pipefail", "-c", ". ./runbook.sh\n"+block)
	fmt.Fprint(ts.Stdout(), out)
	ts.Check(err)
}

// commandBlock returns the Nth block between fences of a section, counted from 1; of what
// comes before all sections for "". A section that is run says so in its heading.
func commandBlock(text, section string, n int) (string, error) {
	const mark = " ✓"
	if section != "" {
		_, after, found := strings.Cut(text, "\n## "+section+mark+"\n")
		if !found {
			return "", fmt.Errorf("no section %q that is marked with%s", section, mark)
		}
		text = after
	}
	text, _, _ = strings.Cut(text, "\n## ")
	parts := strings.Split("\n"+text, "\n```\n")
	if n < 1 || 2*n >= len(parts) {
		return "", fmt.Errorf("section %q has %d blocks, not %d", section, len(parts)/2, n)
	}
	return parts[2*n-1] + "\n", nil
}

func TestCommandBlock(t *testing.T) {
	const text = "# T\n\n```\nall\n```\n\n## A ✓\n\n```\na1\n\na1\n```\nwords\n```\na2\n```\n\n## B\n\n```\nb1\n```\n"
	type asked struct {
		section string
		n       int
	}
	for q, want := range map[asked]string{{"", 1}: "all\n", {"A", 1}: "a1\n\na1\n", {"A", 2}: "a2\n"} {
		if got, err := commandBlock(text, q.section, q.n); err != nil || got != want {
			t.Errorf("%+v: %v, -want +got\n%s", q, err, cmp.Diff(want, got))
		}
	}
	for _, q := range []asked{{"", 2}, {"A", 0}, {"A", 3}, {"B", 1}, {"C", 1}} {
		if got, err := commandBlock(text, q.section, q.n); err == nil {
			t.Errorf("%+v: %q, want an error", q, got)
		}
	}
}
