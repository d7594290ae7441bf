package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// startAPIServer starts a Kubernetes API server with etcd and nothing else, on
// loopback, by the lab's command, and returns an administrator's kubeconfig. stop
// ends it and waits for it.
func startAPIServer(ctx context.Context, command, dir string) (kubeconfig string, stop func(), err error) {
	if _, err := exec.LookPath(command); err != nil {
		return "", nil, missing(fmt.Sprintf("the lab's command, which `make tools` builds: %v", err))
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, command, "apiserver", "--dir", dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return "", nil, err
	}
	var drain sync.WaitGroup
	stop = func() {
		cancel()
		drain.Wait()
		_ = cmd.Wait() // it was told to end
	}
	reader := bufio.NewReader(out)
	if _, err := reader.ReadString('\n'); err != nil { // what it says when it is ready
		stop()
		return "", nil, missing(fmt.Sprintf("an API server: %s: %s", command, bytes.TrimSpace(log.Bytes())))
	}
	drain.Go(func() { _, _ = io.Copy(io.Discard, reader) })
	return filepath.Join(dir, "kubeconfig"), stop, nil
}

// connect returns a client that sends as fast as it is asked to.
func connect(kubeconfig string) (*kubernetes.Clientset, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS = -1
	return kubernetes.NewForConfig(config)
}

// furnish makes what the injector finds on a cluster: the namespaces, and the Secret
// that Citadel wrote for it.
func furnish(ctx context.Context, client kubernetes.Interface, certPEM, keyPEM string) error {
	for name, injection := range map[string]string{"shop": "enabled", mesh.SystemNamespace: "disabled"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{mesh.InjectionLabel: injection}}}
		if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: mesh.WorkloadSecret(mesh.ServerAccount(mesh.InjectorService))},
		Type:       "istio.io/key-and-cert",
		Data:       map[string][]byte{mesh.CertChain: []byte(certPEM), mesh.CertRoot: []byte(certPEM), mesh.CertKey: []byte(keyPEM)},
	}
	_, err := client.CoreV1().Secrets(mesh.SystemNamespace).Create(ctx, secret, metav1.CreateOptions{})
	return err
}
