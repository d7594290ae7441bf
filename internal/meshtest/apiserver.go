// Package meshtest holds what tests of several packages share. Only tests import
// it. Its functions are verbs that fail the test, or skip it and say what is
// missing, so they return no errors. Start reading at [APIServer].
package meshtest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 5 * time.Minute // of a cold start on a busy machine
	stopTimeout  = time.Minute
)

// APIServer starts a Kubernetes API server of the test's own, with etcd and nothing
// else, on loopback, and returns the path of an administrator's kubeconfig. It ends
// with the test; tests that can share it are its subtests.
//
// The command is the lab's, with "" the one that `make` builds, build/bin/cluster
// in the repository. A command that was named has to work; where the default is
// absent, or the lab's parts are not built, the test is skipped.
func APIServer(t testing.TB, command string) (kubeconfig string) {
	t.Helper()
	without := t.Fatalf
	if command == "" {
		without = t.Skipf
		command = filepath.Join(repository(t), "build", "bin", "cluster")
	}
	if _, err := exec.LookPath(command); err != nil {
		without("no API server to test with: %v", err)
	}
	dir := t.TempDir()
	cmd := exec.Command(command, "apiserver", "--dir", dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.WaitDelay = stopTimeout
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, gone := make(chan struct{}), make(chan struct{})
	var failed error // once gone is closed
	go func() {      // ends with the process, for which Cleanup waits
		if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "" {
			close(ready)
		}
		_, _ = io.Copy(io.Discard, stdout)
		failed = cmd.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
			return
		}
		select {
		case <-gone:
		case <-time.After(stopTimeout):
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			<-gone
		}
	})
	select {
	case <-ready:
	case <-gone:
		without("no API server to test with: %s apiserver: %v\n%s", command, failed, &stderr)
	case <-time.After(startTimeout):
		without("no API server to test with: %s apiserver: not ready after %v", command, startTimeout)
	}
	return filepath.Join(dir, "kubeconfig")
}

// repository returns the folder of the root module.
func repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}
