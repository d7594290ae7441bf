package main

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// These tests run the programs of the images that were built last, each in the
// root of its image.

func TestProxyRoot(t *testing.T) {
	r := unpack(t, ours+"proxy:")
	for _, tt := range []struct{ line, want string }{
		{"envoy --version", "/1.40.0/"},
		{"ls /etc | grep passwd", "passwd\n"},
		{"cat /etc/passwd", "istio-proxy:x:1337:1337::"},
		{"curl --version", "libcurl/"},
		{"openssl version", "OpenSSL 3."},
		{"openssl x509 -noout -subject -in /etc/ssl/certs/ca-certificates.crt", "subject="},
		{"id -u; id -un", "1337\nistio-proxy\n"},
		{"test -x /usr/local/bin/agent && echo there", "there\n"},
	} {
		if out, err := r.sh(t, 1337, tt.line); err != nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v, %q", tt.line, err, out)
		}
	}
	if got := r.setuid(t); len(got) > 0 {
		t.Errorf("setuid or setgid: %v", got)
	}
}

func TestProxyDebugRoot(t *testing.T) {
	r := unpack(t, ours+"proxy-debug:")
	if out, err := r.sh(t, 1337, "sudo tcpdump --version"); err != nil || !strings.Contains(out, "tcpdump version") {
		t.Errorf("sudo tcpdump: %v, %q", err, out)
	}
	if out, err := r.sh(t, 1337, "sudo -n cat /etc/sudoers"); err == nil || !strings.Contains(out, "a password is required") {
		t.Errorf("sudo of something else: %v, %q", err, out)
	}
	if diff := cmp.Diff([]string{"usr/bin/sudo"}, r.setuid(t)); diff != "" {
		t.Errorf("setuid or setgid (-want +got):\n%s", diff)
	}
}

// httpbin is started as its image says, but for the port.
func TestHTTPBinRoot(t *testing.T) {
	r := unpack(t, "docker.io/kennethreitz/httpbin:")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := r.command(ctx, 0, "exec gunicorn -b "+addr+" httpbin:app -k gthread --threads 16 --no-control-socket")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log // one writer: exec copies both in one goroutine
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	out, err := r.sh(t, 0, "curl -sS --retry 100 --retry-delay 1 --retry-connrefused http://"+addr+"/ip")
	if err != nil || !strings.Contains(out, `"origin": "127.0.0.1"`) {
		t.Errorf("GET /ip: %v, %s", err, out)
	}
}

func TestSleepRoot(t *testing.T) {
	r := unpack(t, "docker.io/governmentpaas/curl-ssl:")
	if out, err := r.sh(t, 0, "/bin/sleep 0"); err != nil {
		t.Errorf("sleep: %v, %s", err, out)
	}
	// The tutorials read this code where a plain-text client is turned away.
	out, _ := r.sh(t, 0, `curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:1/`)
	if out != "000" {
		t.Errorf("curl of a closed port prints %q", out)
	}
}

// rootDir is an image's root on disk.
type rootDir string

// command is a line for the image's own shell, run as uid.
func (r rootDir) command(ctx context.Context, uid uint32, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Dir, cmd.Env = "/", searchPath()
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: string(r), Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

func (r rootDir) sh(t *testing.T, uid uint32, line string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := r.command(ctx, uid, line).CombinedOutput()
	return string(out), err
}

// setuid lists the programs that take their owner's or group's rights.
func (r rootDir) setuid(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(string(r), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			found = append(found, strings.TrimPrefix(name, string(r)+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// unpack puts the image of the built layout whose reference starts so on disk.
func unpack(t *testing.T, ref string) rootDir {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for chroot")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("needs a cache folder:", err)
	}
	images, err := oci.ReadLayout(filepath.Join(cache, "garrison", "images", "layout"))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		if !strings.HasPrefix(i.Ref, ref) {
			continue
		}
		dir := t.TempDir()
		r := mutate.Extract(i.Image)
		defer r.Close()
		for archive := tar.NewReader(r); ; {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			place(t, dir, h, archive)
		}
		for name, minor := range map[string]int{"null": 3, "urandom": 9} {
			dev := filepath.Join(dir, "dev", name)
			if err := syscall.Mknod(dev, syscall.S_IFCHR|0o666, 1<<8|minor); err != nil {
				t.Skip("needs to make devices:", err)
			}
			if err := os.Chmod(dev, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		// t.TempDir's parents are closed to others; the image's users need a way in.
		for p := dir; p != filepath.Dir(os.TempDir()) && p != "/"; p = filepath.Dir(p) {
			if info, err := os.Stat(p); err == nil && info.Mode().Perm()&0o055 != 0o055 {
				if err := os.Chmod(p, info.Mode()|0o055); err != nil {
					t.Fatal(err)
				}
			}
		}
		return rootDir(dir)
	}
	t.Skipf("needs the built layout (go run ./images build): no %s… in it", ref)
	return ""
}

func place(t *testing.T, dir string, h *tar.Header, body io.Reader) {
	t.Helper()
	name := filepath.Join(dir, h.Name)
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		err = os.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		err = os.Symlink(h.Linkname, name)
	case tar.TypeLink:
		err = os.Link(filepath.Join(dir, h.Linkname), name)
	case tar.TypeReg:
		if err = os.MkdirAll(filepath.Dir(name), 0o755); err != nil { // upper layers come first
			break
		}
		var f *os.File
		if f, err = os.Create(name); err == nil {
			_, err = io.Copy(f, body)
			f.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(name, h.Uid, h.Gid); err != nil {
		t.Fatal(err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := os.Chmod(name, h.FileInfo().Mode()); err != nil {
			t.Fatal(err)
		}
	}
}
