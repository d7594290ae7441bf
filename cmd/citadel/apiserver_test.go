package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// TestAPIServer runs two replicas of the whole command, started together on an
// empty cluster, for a real API server: they must agree on one root, bring
// themselves to serve, and certify whom a token proves and nobody else.
func TestAPIServer(t *testing.T) {
	l, kubeconfig := newLab(t)

	replicas := [2]replica{start(t, kubeconfig, "citadel-a"), start(t, kubeconfig, "citadel-b")}
	for _, r := range replicas {
		r.expectReady(t)
		eventually(t, r.name+" verifies tokens itself", func(ctx context.Context) error {
			return r.hasMetrics(ctx, "citadel_server_token_verification_local 1")
		})
	}
	root := l.root(t)
	good := l.token(t, mesh.TokenAudience, "sleep")
	for _, r := range replicas {
		chain, err := r.certify(t, root, "Bearer "+good)
		if err != nil {
			t.Fatal(err)
		}
		if len(chain) != 3 || chain[2] != root {
			t.Errorf("%s answers with other roots than the ConfigMap has, or without its intermediate", r.name)
		}
		expectSleep(t, chain[0]+chain[1], root)
		for name, authorization := range map[string]string{
			"no token":                      "",
			"garbage":                       "Bearer x.y.z",
			"token for the API server":      "Bearer " + l.token(t, "", "sleep"),
			"token without a pod":           "Bearer " + l.token(t, mesh.TokenAudience, ""),
			"token with a spoilt signature": "Bearer " + good[:len(good)-8] + "AAAAAAAA",
		} {
			if _, err := r.certify(t, root, authorization); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s, %s: %v", r.name, name, err)
			}
		}
		r.expectMetrics(t, `citadel_server_tokens_judged_total{how="local",result="accepted"} 2`, `citadel_server_tokens_judged_total{how="local",result="refused"} 3`,
			"citadel_server_csr_count 6", "citadel_server_authentication_failure_count 5",
			"citadel_server_success_cert_issuance_count 1", "citadel_server_revocation_window_seconds 30")
	}

	t.Run("clients of others", func(t *testing.T) { replicas[0].expectOthersServed(t, root, good) })
	t.Run("revocations", func(t *testing.T) { l.expectRevocations(t, replicas[:], root, good) })

	var secret *corev1.Secret
	eventually(t, "the Secret of an account", func(ctx context.Context) (err error) {
		secret, err = l.CoreV1().Secrets("default").Get(ctx, "istio.sleep", metav1.GetOptions{})
		return err
	})
	expectSleep(t, string(secret.Data[mesh.CertChain]), root)
	if string(secret.Data[mesh.CertRoot]) != root {
		t.Error("the Secret has other roots than the ConfigMap")
	}
	if _, err := l.CoreV1().Secrets("quiet").Get(t.Context(), "istio.sleep", metav1.GetOptions{}); err == nil {
		t.Error("a namespace without injection has a Secret")
	}
	expectScrapes(t, replicas[:]...)
	expectOwnAudienceRefused(t, kubeconfig)
	for _, r := range replicas {
		log := r.stop(t)
		if strings.Contains(log, good) {
			t.Errorf("%s logged a token", r.name)
		}
		l.expectRecord(t, r, log)
	}
	t.Run("keys", func(t *testing.T) { testKeys(t, l, kubeconfig, root) })
}

// The API server's own audience, which every pod has a token for, ends the start.
func expectOwnAudienceRefused(t *testing.T, kubeconfig string) {
	t.Helper()
	const own = "https://kubernetes.default.svc.cluster.local"
	err := run(t.Context(), []string{"--kubeconfig", kubeconfig, "--pod-name", "citadel-c", "--token-audience", "istio-ca," + own}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `token-audience "`+own+`"`) {
		t.Errorf("started with the API server's own audience: %v", err)
	}
}

// expectRevocations holds that every replica follows the ConfigMap, keeps the last one
// that can be read, and lets in again whom it no longer names.
func (l lab) expectRevocations(t *testing.T, replicas []replica, root, token string) {
	t.Helper()
	configMaps := l.CoreV1().ConfigMaps(mesh.SystemNamespace)
	eventuallyAll := func(what string, want codes.Code) {
		t.Helper()
		for _, r := range replicas {
			eventually(t, r.name+": "+what, func(context.Context) error {
				if _, err := r.certify(t, root, "Bearer "+token); status.Code(err) != want {
					return fmt.Errorf("%w, want %s", err, want)
				}
				return nil
			})
		}
	}
	data, err := ca.AddRevocation(nil, ca.Revocation{ID: "spiffe://cluster.local/ns/default/sa/sleep", Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	revoked := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mesh.RevocationsConfigMap}, Data: data}
	if revoked, err = configMaps.Create(t.Context(), revoked, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventuallyAll("refuses the revoked", codes.PermissionDenied)
	revoked.Data[mesh.RevocationsKey] = "- {id: x}"
	if _, err = configMaps.Update(t.Context(), revoked, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventuallyAll("keeps what it read last", codes.PermissionDenied)
	if err := configMaps.Delete(t.Context(), revoked.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventuallyAll("lets in again", codes.OK)
}

type lab struct{ kubernetes.Interface }

// newLab starts an API server with what an installation would find, and skips where there
// is none.
func newLab(t *testing.T) (l lab, kubeconfig string) {
	t.Helper()
	kubeconfig = meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN"))
	api, err := cluster.Connect(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	l = lab{api.Client}
	l.prepare(t)
	return l, kubeconfig
}

// prepare makes what a controller manager and an installation would have.
func (l lab) prepare(t *testing.T) {
	t.Helper()
	for _, ns := range []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: mesh.SystemNamespace}},
		{ObjectMeta: metav1.ObjectMeta{Name: "quiet"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}},
	} {
		_, err := l.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{})
		if err != nil && ns.Name == "default" { // the API server made it
			patch := []byte(`{"metadata":{"labels":{"istio-injection":"enabled"}}}`)
			_, err = l.CoreV1().Namespaces().Patch(t.Context(), ns.Name, "application/merge-patch+json", patch, metav1.PatchOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for namespace, name := range map[string]string{
		mesh.SystemNamespace: mesh.ServerAccount(mesh.CitadelService), "default": "sleep", "quiet": "sleep",
	} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := l.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	l.makePod(t, "sleep", "sleep", "")
}

// makePod makes a pod that runs as an account, on a node unless it is "".
func (l lab) makePod(t *testing.T, name, account, node string) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		ServiceAccountName: account, NodeName: node, AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "c", Image: "none"}},
	}}
	if _, err := l.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// token returns one for the sleep account, as [lab.tokenOf] has it.
func (l lab) token(t *testing.T, audience, pod string) string {
	t.Helper()
	return l.tokenOf(t, "sleep", audience, pod)
}

// tokenOf returns one for an account, for an audience or with "" for the API server's
// own, bound to the pod unless it is "".
func (l lab) tokenOf(t *testing.T, account, audience, pod string) string {
	t.Helper()
	var request authenticationv1.TokenRequest
	if pod != "" {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod}
	}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	out, err := l.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), account, &request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out.Status.Token
}

// root returns the roots that pods are given.
func (l lab) root(t *testing.T) (root string) {
	t.Helper()
	eventually(t, "the ConfigMap with the roots", func(ctx context.Context) error {
		found, err := l.CoreV1().ConfigMaps("default").Get(ctx, mesh.RootConfigMap, metav1.GetOptions{})
		if err == nil {
			root = found.Data[mesh.RootKey]
		}
		return err
	})
	return root
}

// expectRecord holds the issuance log of a replica that has ended to the checkpoint that
// it published last, which is of its end unless the replica said that it had no time for that.
func (l lab) expectRecord(t *testing.T, r replica, log string) {
	t.Helper()
	published, err := l.CoreV1().ConfigMaps(mesh.SystemNamespace).Get(t.Context(), mesh.IssuanceLogConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ledger.ParseCheckpoint([]byte(published.Data[r.name]))
	if err != nil {
		t.Fatal(err)
	}
	v, err := ledger.NewVerifier(ledger.VerifyOptions{Published: []ledger.Checkpoint{c}})
	if err == nil {
		err = v.Read(r.name, bytes.NewReader(r.record.Bytes()))
	}
	if err != nil {
		t.Fatal(err)
	}
	report := v.Report()
	if len(report.Breaks) > 0 || len(report.Chains) != 1 ||
		report.Chains[0].Published != report.Chains[0].Last && !strings.Contains(log, "last checkpoint was not published") {
		t.Errorf("%+v\n%s", report, r.record)
	}
}

func eventually(t *testing.T, what string, done func(context.Context) error) {
	t.Helper()
	var last error
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		last = done(ctx)
		return last == nil, nil
	}); err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

// replica is one running citadel.
type replica struct {
	name        string
	grpc, admin string
	record      *bytes.Buffer // its issuance log, to be read once it has stopped
	stop        func(*testing.T) (log string)
}

func start(t *testing.T, kubeconfig, name string, args ...string) replica {
	t.Helper()
	r := replica{name: name, grpc: meshtest.Address(t), admin: meshtest.Address(t), record: new(bytes.Buffer)}
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	ended := make(chan error, 1)
	go func() { // stop, or at the latest the end of the test, waits for it
		ended <- run(ctx, append([]string{"--kubeconfig", kubeconfig, "--pod-name", name, "--listen", r.grpc, "--admin", r.admin}, args...), r.record, &log)
	}()
	r.stop = func(t *testing.T) string {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		ended <- nil
		return log.String()
	}
	t.Cleanup(func() { r.stop(t) })
	return r
}

func (r replica) get(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+path, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

func (r replica) expectReady(t *testing.T) {
	t.Helper()
	eventually(t, r.name+" is ready", func(ctx context.Context) error {
		_, err := r.get(ctx, "/readyz")
		return err
	})
}

func (r replica) expectMetrics(t *testing.T, lines ...string) {
	t.Helper()
	if err := r.hasMetrics(t.Context(), lines...); err != nil {
		t.Error(err)
	}
}

func (r replica) hasMetrics(ctx context.Context, lines ...string) error {
	text, err := r.get(ctx, "/metrics")
	for _, line := range lines {
		if err == nil && !strings.Contains(text, line+"\n") {
			err = fmt.Errorf("%s has no metric %s", r.name, line)
		}
	}
	return err
}

// certify asks for a certificate as a sidecar does: over TLS, verified by the
// roots in its namespace, under the name of the Service.
func (r replica) certify(t *testing.T, root, authorization string) ([]string, error) {
	t.Helper()
	conn := r.dial(t, root, "istio-citadel.istio-system.svc")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if authorization != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", authorization)
	}
	out, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, &securityapi.IstioCertificateRequest{
		Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
	})
	return out.GetCertChain(), err
}

// dial connects under a name, and verifies the server by the roots.
func (r replica) dial(t *testing.T, root, serverName string) *grpc.ClientConn {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(root)) {
		t.Fatalf("no roots in %q", root)
	}
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{ServerName: serverName, RootCAs: roots})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// expectSleep verifies a certificate of the sleep account by the roots.
func expectSleep(t *testing.T, chain, root string) {
	t.Helper()
	block, rest := pem.Decode([]byte(chain))
	if block == nil {
		t.Fatal("no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(root))
	between.AppendCertsFromPEM(rest)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		t.Error(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://cluster.local/ns/default/sa/sleep" || len(leaf.DNSNames) > 0 {
		t.Errorf("names %v %v", leaf.URIs, leaf.DNSNames)
	}
}
