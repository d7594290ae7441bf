package ca

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// namesIn returns what a pattern finds in a file, sorted.
func namesIn(t *testing.T, file, pattern string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return found
}

func rulesInCode(t *testing.T) []string {
	t.Helper()
	rules := namesIn(t, "rule.go", `(?m)^\tRule\w+ +Rule = "([a-z-]+)"`)
	if len(rules) < 20 {
		t.Fatalf("only %q", rules)
	}
	return rules
}

// Every rule stands in the operators' table, and no other.
func TestRulesAreDocumented(t *testing.T) {
	code := rulesInCode(t)
	docs := namesIn(t, "../../docs/citadel.md", "(?m)^\\| `([a-z-]+)` \\| [A-Z][A-Za-z]+ \\|")
	if !slices.Equal(code, docs) {
		t.Errorf("rules %q\nin docs/citadel.md %q", code, docs)
	}
}
