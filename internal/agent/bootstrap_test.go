package agent

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files")

// testBootstraps are bootstraps by the name of their golden file.
func testBootstraps(t *testing.T) map[string]string {
	t.Helper()
	plain := Proxy{ID: testID(t, "sleep"), Pod: "sleep-7c5f", Address: netip.MustParseAddr("10.244.1.7")}
	six, transparent := plain, plain
	six.Address = netip.MustParseAddr("fd00:10:244::7")
	transparent.Transparent = true
	made := map[string]string{}
	for name, text := range map[string]func() ([]byte, error){
		"bootstrap":             func() ([]byte, error) { return bootstrap(plain, false) },
		"bootstrap-ipv6":        func() ([]byte, error) { return bootstrap(six, true) },
		"bootstrap-transparent": func() ([]byte, error) { return bootstrap(transparent, true) },
	} {
		text, err := text()
		if err != nil {
			t.Fatal(err)
		}
		made[name] = string(text)
	}
	return made
}

func TestBootstrapGolden(t *testing.T) {
	again := testBootstraps(t)
	for name, got := range testBootstraps(t) {
		expectGolden(t, name+".json", got)
		if got != again[name] {
			t.Errorf("%s: equal input gave other bytes", name)
		}
	}
}

// expectGolden compares with a file of testdata.
func expectGolden(t *testing.T, file, got string) {
	t.Helper()
	golden := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", file, diff)
	}
}

func TestBootstrapIsTakenByEnvoy(t *testing.T) {
	envoy := envoyBinary(t)
	for name, text := range testBootstraps(t) {
		file := filepath.Join(t.TempDir(), "bootstrap.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "--config-path", file, "--log-level", "warning").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		t.Logf("%s: %s", name, out)
	}
}
