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
	b.WriteString(`# Annotations and labels

<!-- Made from mesh.Annotations and mesh.Labels by: go test ./internal/mesh -run Docs -update -->

What the injector reads and writes on pods. A value that cannot be read refuses the
pod, and the message names the annotation. Annotations of Istio's and Garrison's domains
that are not listed here have no effect, and are warned of.

An annotation counts where it stands nearest: on the pod, else on its namespace, else in
` + "`defaults`" + ` of the injector's settings. Those that are marked *pod* mean something on a pod
only. Those that are marked *opens* take traffic out of the capture: each is a hole that
` + "`garrison explain`" + ` lists, and refused in strict namespaces unless the operator names it.

## Read

`)
	table(&b, false)
	b.WriteString("\n## Written\n\n")
	table(&b, true)
	b.WriteString("\n## Labels\n\n| label | on | value | effect |\n|---|---|---|---|\n")
	for _, l := range Labels() {
		effect := l.Effect
		if l.Written {
			effect += " Written where the pod's author did not."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", l.Name, l.On, l.Value, effect)
	}
	return b.String()
}

func table(b *strings.Builder, written bool) {
	b.WriteString("| annotation | value | default | effect |\n|---|---|---|---|\n")
	for _, a := range Annotations() {
		if a.Written != written {
			continue
		}
		marks := ""
		if a.PodOnly && !a.Written {
			marks += " *pod*"
		}
		if a.Opens {
			marks += " *opens*"
		}
		fmt.Fprintf(b, "| `%s`%s | %s | %s | %s |\n", a.Name, marks, a.Value, a.Default, a.Effect)
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
	for _, l := range Labels() {
		if l.On == "" || l.Value == "" || !strings.HasSuffix(l.Effect, ".") || strings.ContainsAny(l.Value+l.Effect, "|\n") {
			t.Errorf("%s: %+v is not a row of a table with whole sentences", l.Name, l)
		}
	}
}
