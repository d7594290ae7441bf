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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	securityapi "istio.io/api/security/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Pods that are asked for in a second, by podClients that share the work: fewer are only
// while every one of them waits for an answer.
const (
	podRate    = 20
	podClients = 8
)

// steadily [-clients=N] NAMESPACE PROGRAM [ARG…] runs the program while, all the
// time, pods are created in the namespace, [podRate] a second, and certificates are
// asked for by N clients (else by one), each on a new connection. Not one of them may
// fail. The pods are created by dry run: that goes through the webhook, and nothing is
// stored or started. How many a second it came to depends on the machine, and is logged
// rather than judged.
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
	works := map[string]work{"pods": {do: podCreator(ts, args[0]), workers: podClients, wait: evenly(time.Second / podRate)}}
	if clients > 0 {
		works["certificates"] = work{do: certificateAsker(ts, args[0]), workers: clients, wait: func() time.Duration { return 50 * time.Millisecond }}
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		count  = map[string]int{}
		failed []string
	)
	for name, w := range works {
		for range w.workers {
			wg.Go(func() {
				for w.next(ctx) {
					err := w.do()
					mu.Lock()
					count[name]++
					if err != nil {
						failed = append(failed, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), name, err))
					}
					mu.Unlock()
				}
			})
		}
	}
	begin := time.Now()
	out, err := run(ts, nil, args[1], args[2:]...)
	cancel()
	wg.Wait()
	took := time.Since(begin)
	ts.Check(err)
	ts.Logf("%s", out)
	ts.Logf("meanwhile, in %.0f s: %v; by dry run %.1f pods a second of %d asked for",
		took.Seconds(), count, float64(count["pods"])/took.Seconds(), podRate)
	for name := range works {
		if count[name] < 10 {
			ts.Fatalf("only %d %s meanwhile: nothing was proved", count[name], name)
		}
	}
	if len(failed) > 0 {
		ts.Fatalf("%d failed meanwhile, of %v, these first:\n%s", len(failed), count, strings.Join(failed[:min(len(failed), 10)], "\n"))
	}
}

// work is something that is done again and again.
type work struct {
	do      func() error
	workers int
	wait    func() time.Duration // how long one of them waits before the next
}

// next waits until a worker is to begin, and reports whether it still is.
func (w work) next(ctx context.Context) bool {
	select {
	case <-ctx.Done():
	case <-time.After(w.wait()):
	}
	return ctx.Err() == nil
}

// evenly has things begin at a distance on the average: what came too late does not
// put off what follows.
func evenly(apart time.Duration) func() time.Duration {
	var n atomic.Int64
	begin := time.Now()
	return func() time.Duration { return time.Until(begin.Add(time.Duration(n.Add(1)) * apart)) }
}

// TestEvenly: the rate is kept while one of the workers is free at least, and what was
// late is made up for.
func TestEvenly(t *testing.T) {
	for name, answer := range map[string]func(n int64) time.Duration{
		"at once":         func(int64) time.Duration { return 0 },
		"slowly":          func(int64) time.Duration { return 350 * time.Millisecond },
		"not for a while": func(n int64) time.Duration { return time.Duration(max(0, 3-n/podClients)) * time.Second },
	} {
		synctest.Test(t, func(t *testing.T) {
			const seconds = 30
			ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second+time.Millisecond)
			defer cancel()
			var begun atomic.Int64
			w := work{wait: evenly(time.Second / podRate), do: func() error {
				<-time.After(answer(begun.Add(1)))
				return nil
			}}
			var wg sync.WaitGroup
			for range podClients {
				wg.Go(func() {
					for w.next(ctx) {
						_ = w.do()
					}
				})
			}
			wg.Wait()
			if got := begun.Load(); got != seconds*podRate {
				t.Errorf("answered %s: %d began in %d s, want %d", name, got, seconds, seconds*podRate)
			}
		})
	}
}

// podCreator creates pods over one connection: what is tried is not the way to the API
// server but its own way to the webhook.
func podCreator(ts *testscript.TestScript, namespace string) func() error {
	config, err := clientcmd.BuildConfigFromFlags("", ts.Getenv("KUBECONFIG"))
	ts.Check(err)
	config.QPS = -1 // no limit of its own
	client, err := kubernetes.NewForConfig(config)
	ts.Check(err)
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		pod, err := client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "steady-"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "steady", Image: "docker.io/kennethreitz/httpbin"}}},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err
		}
		var names []string
		for _, c := range pod.Spec.InitContainers {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != "istio-init istio-proxy" {
			return fmt.Errorf("created with init containers %q", got)
		}
		return nil
	}
}

// callers is how many pods the certificates are for: each asks less than once a second,
// as no pod may ask much oftener.
const callers = 200

// callerTokens makes pods that never run, and returns for each a token that names it.
func callerTokens(ts *testscript.TestScript, namespace string) (tokens []string) {
	config, err := clientcmd.BuildConfigFromFlags("", ts.Getenv("KUBECONFIG"))
	ts.Check(err)
	config.QPS = -1 // no limit of its own
	client, err := kubernetes.NewForConfig(config)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range callers {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("asker-%d", i), Labels: map[string]string{mesh.InjectLabel: "false"}},
			Spec: corev1.PodSpec{
				SchedulingGates: []corev1.PodSchedulingGate{{Name: "garrison.io/never"}},
				Containers:      []corev1.Container{{Name: "c", Image: "none"}},
			},
		}
		found, err := client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			found, err = client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		}
		ts.Check(err)
		answer, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "default", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{
				Audiences:      []string{mesh.TokenAudience},
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: found.Name, UID: found.UID},
			},
		}, metav1.CreateOptions{})
		ts.Check(err)
		tokens = append(tokens, answer.Status.Token)
	}
	return tokens
}

func certificateAsker(ts *testscript.TestScript, namespace string) func() error {
	root := kubectl(ts, "-n", "istio-system", "get", "configmap", "istio-ca-root-cert", "-o", `jsonpath={.data.root-cert\.pem}`)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(root)) {
		ts.Fatalf("istio-ca-root-cert holds no certificate")
	}
	tokens := callerTokens(ts, namespace)
	var asked atomic.Uint64
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
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tokens[asked.Add(1)%callers])
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
