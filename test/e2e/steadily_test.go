package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"
)

// steadily [-clients=N] NAMESPACE PROGRAM [ARG…] runs the program while, all the
// time, pods are created in the namespace (by dry run, so through the webhook) and
// certificates are asked for by N clients (else by one), each on a new connection.
// Not one of them may fail.
func steadily(ts *testscript.TestScript, neg bool, args []string) {
	clients := 1
	if len(args) > 0 {
		if n, ok := strings.CutPrefix(args[0], "-clients="); ok {
			var err error
			clients, err = strconv.Atoi(n)
			ts.Check(err)
			args = args[1:]
		}
	}
	if neg || len(args) < 2 {
		ts.Fatalf("usage: steadily [-clients=n] namespace program [arg...]")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	works := map[string]func() error{
		"pods":         podCreator(ts, args[0]),
		"certificates": certificateAsker(ts, args[0]),
	}
	workers := append(slices.Repeat([]string{"certificates"}, clients), "pods")
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		count  = map[string]int{}
		failed []string
	)
	for _, name := range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := works[name]()
				mu.Lock()
				count[name]++
				if err != nil {
					failed = append(failed, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), name, err))
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	out, err := run(ts, nil, args[1], args[2:]...)
	cancel()
	wg.Wait()
	ts.Check(err)
	ts.Logf("%s", out)
	ts.Logf("meanwhile: %v", count)
	for name := range works {
		if count[name] < 10 {
			ts.Fatalf("only %d %s meanwhile: nothing was proved", count[name], name)
		}
	}
	if len(failed) > 0 {
		ts.Fatalf("%d failed meanwhile, of %v:\n%s", len(failed), count, strings.Join(failed, "\n"))
	}
}

func podCreator(ts *testscript.TestScript, namespace string) func() error {
	kubeconfig := ts.Getenv("KUBECONFIG")
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "kubectl", "-n", namespace, "run", "steady", "--dry-run=server",
			"--image=docker.io/kennethreitz/httpbin", "-o", "jsonpath={.spec.initContainers[*].name}")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if got := string(out); got != "istio-init istio-proxy" {
			return fmt.Errorf("created with init containers %q", got)
		}
		return nil
	}
}

func certificateAsker(ts *testscript.TestScript, namespace string) func() error {
	root := kubectl(ts, "-n", "istio-system", "get", "configmap", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(root)) {
		ts.Fatalf("istio-ca-root-cert holds no certificate")
	}
	token := strings.TrimSpace(kubectl(ts, "-n", namespace, "create", "token", "default", "--audience=istio-ca"))
	addr := kubectl(ts, "-n", "istio-system", "get", "service", "istio-citadel", "-o", "jsonpath={.spec.clusterIP}") + ":8060"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + namespace + "/sa/default"}},
	}, key)
	ts.Check(err)
	csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	creds := credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "istio-citadel.istio-system.svc", MinVersion: tls.VersionTLS12})
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		answer, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx,
			&securityapi.IstioCertificateRequest{Csr: csr, ValidityDuration: 3600})
		if err != nil {
			return err
		}
		if len(answer.CertChain) < 2 {
			return fmt.Errorf("chain of %d", len(answer.CertChain))
		}
		return nil
	}
}
