package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// citadel is the real command beside an API server of its own, ready to certify the
// pods of one account.
type citadel struct {
	*started
	client *kubernetes.Clientset
	mint   *mint
}

// startCitadel starts an API server and the command with further flags, and returns
// when it is ready. stop ends both.
func (b bench) startCitadel(ctx context.Context, flags ...string) (c *citadel, stop func() error, err error) {
	dir := filepath.Join(b.dir, "citadel")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	kubeconfig, end, err := startAPIServer(ctx, b.plan.lab, filepath.Join(dir, "apiserver"))
	if err != nil {
		return nil, nil, err
	}
	stop = func() error { end(); return nil }
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	c = new(citadel)
	if c.client, err = connect(kubeconfig); err != nil {
		return nil, nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, nil, err
	}
	key := filepath.Join(dir, "apiserver", "sa.key")
	if c.mint, err = newMint(ctx, c.client, key); err != nil {
		return nil, nil, fmt.Errorf("tokens: %w", err)
	}
	path := filepath.Join(dir, "citadel")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/garrison-mesh/garrison/cmd/citadel").CombinedOutput()
	if err != nil {
		return nil, nil, fmt.Errorf("go build: %w: %s", err, out)
	}
	if c.started, err = launch(ctx, path, dir, append(flags, "--kubeconfig="+kubeconfig)); err != nil {
		return nil, nil, err
	}
	stop = func() error { err := c.kill(); end(); return err }
	if err := c.open(ctx); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, c.said())
	}
	return c, stop, nil
}

// settle makes what a controller manager and an installation would have.
func (c *citadel) settle(ctx context.Context) error {
	for namespace, account := range map[string]string{mesh.SystemNamespace: mesh.ServerAccount(mesh.CitadelService), shop: cart} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
		if _, err := c.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return err
		}
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}
		if _, err := c.client.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// open waits until the command is ready, and learns the roots.
func (c *citadel) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	if _, err := c.until(ctx, c.ready); err != nil {
		return err
	}
	_, err := c.until(ctx, func(ctx context.Context) error {
		found, err := c.client.CoreV1().ConfigMaps(shop).Get(ctx, mesh.RootConfigMap, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c.root = found.Data[mesh.RootKey]
		return nil
	})
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM([]byte(c.root)) {
		err = errors.New("roots: no certificate")
	}
	c.trust = &tls.Config{RootCAs: roots, ServerName: mesh.CitadelService + "." + mesh.SystemNamespace + ".svc", MinVersion: tls.VersionTLS13}
	return err
}

// installed is what Citadel's manifest tells the runtime.
func installed() []string { return []string{"GOGC=40", "GOMEMLIMIT=450MiB"} }

// launch starts a server's command, with its log in a file of the folder.
func launch(ctx context.Context, path, dir string, flags []string) (*started, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	s := &started{admin: admin, server: &server{role: filepath.Base(path), addr: addr, log: filepath.Join(dir, "command.log")}}
	s.cmd = exec.Command(path, append(flags, "--listen="+addr, "--admin="+admin)...)
	s.cmd.Env = append(os.Environ(), installed()...)
	file, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	s.cmd.Stderr, s.cmd.Stdout = file, file
	s.begin = time.Now()
	return s, s.cmd.Start()
}

// peak returns the most memory that the process had resident so far, in bytes.
func (s *server) peak() (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return parsePeak(string(status))
}

// parsePeak reads VmHWM (man 5 proc_pid_status).
func parsePeak(status string) (int, error) {
	for line := range strings.Lines(status) {
		var kB int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kB); n == 1 {
			return kB << 10, nil
		}
	}
	return 0, errors.New("no VmHWM")
}
