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

func TestFlagBeatsVariableBeatsFile(t *testing.T) {
	name := file(t, "image: file\nlisten: ':1'\nadmin: ':1'\ntrust-domain: file\nproxy: {privileged: true, cpu: 7m}\n")
	t.Setenv("GARRISON_CONFIG", name)
	t.Setenv("GARRISON_LISTEN", ":2")
	t.Setenv("GARRISON_ADMIN", ":2")
	t.Setenv("GARRISON_PROXY_PRIVILEGED", "false")
	got, err := parse([]string{"--listen=:3"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got.listen != ":3" || got.admin != ":2" {
		t.Errorf("listen %s from the flag, admin %s from the variable", got.listen, got.admin)
	}
	want, err := parse([]string{"--config=/dev/null", "--image=file", "--trust-domain=file", "--proxy.cpu=7m"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got.settings.Hash() != want.settings.Hash() {
		t.Error("the file's image, trust domain and CPU, or the variable that beats it, are not in the settings")
	}
}

func TestEveryMistakeIsReported(t *testing.T) {
	t.Setenv("GARRISON_CONCURRENT_REVIEWS", "-3")
	name := file(t, "imgae: x\nproxy: {privileged: perhaps, colour: red}\n")
	_, err := parse([]string{"--config", name, "--listen=8443", "--log-level=loud", "--trust-domain=Not_OK", "--proxy.memory=2Gi"}, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`"imgae" is no setting`, `"proxy.colour" is no setting`, `proxy.privileged: "perhaps"`, `concurrent-reviews: "-3"`,
		`listen: "8443"`, "log-level: ", "trust-domain: ", "image: missing", "memory request of the sidecar: 2Gi",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
}

func TestFileThatIsNotThere(t *testing.T) {
	if _, err := parse([]string{"--image=x", "--config=/nowhere/injector.yaml"}, io.Discard); err == nil || !strings.Contains(err.Error(), "/nowhere/injector.yaml") {
		t.Errorf("%v", err)
	}
}

func TestHelpNamesEverySetting(t *testing.T) {
	var out bytes.Buffer
	if c, err := parse([]string{"--help"}, &out); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
	if !strings.Contains(out.String(), "--proxy.memory-limit") {
		t.Errorf("%s", &out)
	}
}

// TestManifestsSettings holds the settings that are installed to the flags.
func TestManifestsSettings(t *testing.T) {
	if _, err := parse([]string{"--config=../../manifests/base/settings/injector.yaml"}, io.Discard); err != nil {
		t.Error(err)
	}
}
