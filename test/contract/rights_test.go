package contract

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The threat model says for each right of each account what a thief could do with it.
// A right that the manifests grant and the table does not know was given without that
// thought; a row without a right behind it makes the table a fairy tale.
func TestThreatModelKnowsEveryRight(t *testing.T) {
	granted, written := grants(t, "../../manifests/base"), rows(t, "../../docs/threat-model.md")
	if len(granted) < 10 {
		t.Fatalf("%d rights found in the manifests; the rule would hold of nothing", len(granted))
	}
	if diff := cmp.Diff(granted, written); diff != "" {
		t.Errorf("rights granted by manifests/base (-) and rows of docs/threat-model.md (+):\n%s", diff)
	}
}

// grants returns the rights of service accounts, a line each, as the table writes them:
// account, where, what.
func grants(t *testing.T, dir string) (lines []string) {
	rules := map[string][]rbacv1.PolicyRule{} // by kind, namespace and name
	var bindings []rbacv1.RoleBinding         // of the cluster: without a namespace
	space := func(given string) string {
		if given == "" {
			return mesh.SystemNamespace // as the kustomization has it
		}
		return given
	}
	id := func(kind, namespace, name string) string { return kind + " " + namespace + " " + name }
	for _, doc := range documents(t, dir) {
		var head struct{ Kind string }
		decode(t, doc, &head)
		switch head.Kind {
		case "ClusterRole":
			var role rbacv1.ClusterRole
			decode(t, doc, &role)
			rules[id("ClusterRole", "", role.Name)] = role.Rules
		case "Role":
			var role rbacv1.Role
			decode(t, doc, &role)
			rules[id("Role", space(role.Namespace), role.Name)] = role.Rules
		case "ClusterRoleBinding":
			var binding rbacv1.ClusterRoleBinding
			decode(t, doc, &binding)
			bindings = append(bindings, rbacv1.RoleBinding{ObjectMeta: binding.ObjectMeta, RoleRef: binding.RoleRef, Subjects: binding.Subjects})
		case "RoleBinding":
			var binding rbacv1.RoleBinding
			decode(t, doc, &binding)
			binding.Namespace = space(binding.Namespace)
			bindings = append(bindings, binding)
		}
	}
	for _, b := range bindings {
		where, role := "cluster", id(b.RoleRef.Kind, "", b.RoleRef.Name)
		if b.Namespace != "" {
			where = b.Namespace
			if b.RoleRef.Kind == "Role" {
				role = id("Role", b.Namespace, b.RoleRef.Name)
			}
		}
		held, ok := rules[role]
		if !ok {
			t.Errorf("%s %s: binds %s, which is not among the manifests", where, b.Name, role)
		}
		for _, subject := range b.Subjects {
			for _, rule := range held {
				lines = append(lines, strings.Join([]string{subject.Name, where, words(rule)}, " | "))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// words writes a rule as people read it: verbs, resources, names.
func words(r rbacv1.PolicyRule) string {
	out := strings.Join(r.Verbs, ", ") + " " + strings.Join(slices.Concat(r.Resources, r.NonResourceURLs), ", ")
	if len(r.ResourceNames) > 0 {
		out += ": " + strings.Join(r.ResourceNames, ", ")
	}
	return out
}

// rows returns the first three columns of the tables whose first is an account, which
// the rows below leave empty where it is the same.
func rows(t *testing.T, path string) (lines []string) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	account, inTable := "", false
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 {
			inTable = false
			continue
		}
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "`", "")
		}
		switch {
		case cells[1] == "account":
			inTable = true
		case inTable && strings.Trim(cells[1], "-") != "":
			account = cells[1]
			fallthrough
		case inTable && cells[1] == "":
			if cells[4] == "" {
				t.Errorf("%s may %s: what could a thief do with it?", account, cells[3])
			}
			lines = append(lines, strings.Join([]string{account, cells[2], cells[3]}, " | "))
		}
	}
	slices.Sort(lines)
	return lines
}

func documents(t *testing.T, dir string) (docs [][]byte) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for reader := yamlutil.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text))); ; {
			doc := make([]byte, len(text)+1)
			n, err := reader.Read(doc)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(fmt.Errorf("%s: %w", path, err))
			}
			docs = append(docs, doc[:n])
		}
	}
	return docs
}

func decode(t *testing.T, doc []byte, into any) {
	if err := yaml.Unmarshal(doc, into); err != nil {
		t.Fatal(err)
	}
}
