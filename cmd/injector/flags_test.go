package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "injector.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFlagBeatsVariable(t *testing.T) {
	t.Setenv("GARRISON_SETTINGS", file(t, "image: x\n"))
	t.Setenv("GARRISON_LISTEN", ":2")
	t.Setenv("GARRISON_ADMIN", ":2")
	got, err := parse([]string{"--listen=:3"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got.listen != ":3" || got.admin != ":2" {
		t.Errorf("listen %s from the flag, admin %s from the variable", got.listen, got.admin)
	}
}

func TestEveryMistakeIsReported(t *testing.T) {
	t.Setenv("GARRISON_CONCURRENT_REVIEWS", "-3")
	name := file(t, "policy: perhaps\n")
	_, err := parse([]string{"--settings", name, "--listen=8443", "--log-level=loud"}, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`concurrent-reviews: "-3"`, `listen: "8443"`, "log-level: ", name + ": image: missing", `policy "perhaps"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
}

func TestFileOfSettings(t *testing.T) {
	for want, args := range map[string][]string{
		"/nowhere/injector.yaml":     {"--settings=/nowhere/injector.yaml"},
		"settings: missing":          {},
		`unknown field "imgae"`:      {"--settings=" + file(t, "imgae: x\n")},
		"argument \"x\": only flags": {"x"},
	} {
		if _, err := parse(args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", args, err, want)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out bytes.Buffer
	if c, err := parse([]string{"--help"}, &out); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
	if !strings.Contains(out.String(), "--concurrent-reviews") {
		t.Errorf("%s", &out)
	}
}

// TestManifestsSettings holds the settings that are installed to what is read.
func TestManifestsSettings(t *testing.T) {
	if _, err := parse([]string{"--settings=../../manifests/base/settings/injector.yaml"}, io.Discard); err != nil {
		t.Error(err)
	}
}
