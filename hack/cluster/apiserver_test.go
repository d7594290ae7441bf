//go:build linux && long

package main

import (
	"bufio"
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Two API servers at once, without root's help: each answers, knows RBAC, and
// ends when told to.
func TestAPIServer(t *testing.T) {
	l := labOf(t, "labt-s", 1)
	kubernetes, err := l.builder().Kubernetes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), name)
			server := exec.Command(l.program, "apiserver", "-dir", dir)
			var log bytes.Buffer // of interest only where something went wrong
			server.Stderr = &log
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s", &log)
				}
			})
			stdout, err := server.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "ready https://127.0.0.1:") {
				t.Errorf("said %q, %v", line, err)
			}
			kubectl := func(args ...string) (string, error) {
				out, err := exec.Command(kubernetes, append([]string{"kubectl", "--kubeconfig", filepath.Join(dir, "kubeconfig")}, args...)...).CombinedOutput()
				return strings.TrimSpace(string(out)), err
			}
			if out, err := kubectl("create", "serviceaccount", name); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if out, err := kubectl("get", "serviceaccounts", "--as=nobody"); err == nil {
				t.Errorf("nobody sees %s", out)
			}
			token, err := kubectl("create", "token", name, "--audience=istio-ca")
			if err != nil {
				t.Errorf("%v: %s", err, token)
			} else {
				checkToken(t, filepath.Join(dir, "sa.key"), token)
			}
			if err := server.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			if err := server.Wait(); err != nil {
				t.Errorf("ended: %v", err)
			}
		})
	}
}
