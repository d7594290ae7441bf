package mesh

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite docs/annotations.md")

// TestDocs keeps docs/annotations.md equal to the table. After a change of the
// table: go test ./internal/mesh -run Docs -update.
func TestDocs(t *testing.T) {
	const path = "../../docs/annotations.md"
	got := annotationDocs()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/annotations.md is not what the table says; run this test with -update\n%s", diff)
	}
}

func annotationDocs() string {
	var b strings.Builder
	b.WriteString(`# Annotations

<!-- Made from mesh.Annotations by: go test ./internal/mesh -run Docs -update -->

What the injector reads and writes on pods. A value that cannot be read refuses the
pod, and the message names the annotation. Annotations of Istio that are not listed
here have no effect; the injector warns of those that concern sidecars.

## Read

`)
	table(&b, false)
	b.WriteString("\n## Written\n\n")
	table(&b, true)
	return b.String()
}

func table(b *strings.Builder, written bool) {
	b.WriteString("| annotation | value | default | effect |\n|---|---|---|---|\n")
	for _, a := range Annotations() {
		if a.Written == written {
			fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", a.Name, a.Value, a.Default, a.Effect)
		}
	}
}

func TestAnnotationsAreWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range Annotations() {
		if seen[a.Name] {
			t.Errorf("%s stands in the table twice", a.Name)
		}
		seen[a.Name] = true
		if a.Value == "" || !strings.HasSuffix(a.Effect, ".") || strings.ContainsAny(a.Value+a.Default+a.Effect, "|\n") {
			t.Errorf("%s: %+v is not a row of a table with whole sentences", a.Name, a)
		}
	}
}
