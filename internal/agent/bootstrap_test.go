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

func testBootstrap(t *testing.T) []byte {
	t.Helper()
	text, err := bootstrap(Proxy{ID: testID(t, "sleep"), Pod: "sleep-7c5f", Address: netip.MustParseAddr("10.244.1.7")})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBootstrapGolden(t *testing.T) {
	golden := filepath.Join("testdata", "bootstrap.json")
	got := testBootstrap(t)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error("bootstrap (-want +got; -update rewrites it):\n", diff)
	}
	if again := testBootstrap(t); string(again) != string(got) {
		t.Error("equal input gave other bytes")
	}
}

func TestBootstrapIsTakenByEnvoy(t *testing.T) {
	envoy := envoyBinary(t)
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(file, testBootstrap(t), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "--config-path", file, "--log-level", "warning").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
