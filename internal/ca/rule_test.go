package ca

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// Every rule stands in the operators' table, and no other.
func TestRulesAreDocumented(t *testing.T) {
	names := func(file, pattern string) (found []string) {
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
	code := names("rule.go", `(?m)^\tRule\w+ +Rule = "([a-z-]+)"`)
	docs := names("../../docs/citadel.md", "(?m)^\\| `([a-z-]+)` \\| [A-Z][A-Za-z]+ \\|")
	if len(code) < 20 || !slices.Equal(code, docs) {
		t.Errorf("rules %q\nin docs/citadel.md %q", code, docs)
	}
}
