package cluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// pod makes one that is bound to a node.
func (l lab) pod(t *testing.T, account *corev1.ServiceAccount, name string) *corev1.Pod {
	t.Helper()
	pod, err := l.admin.Client.CoreV1().Pods(account.Namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			ServiceAccountName: account.Name, AutomountServiceAccountToken: new(bool), NodeName: "n1",
			Containers: []corev1.Container{{Name: "main", Image: "main"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// token returns one of the account for the audience, bound to the pod unless it is nil.
func (l lab) token(t *testing.T, account *corev1.ServiceAccount, pod *corev1.Pod, audience string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	answer, err := l.admin.Client.CoreV1().ServiceAccounts(account.Namespace).CreateToken(t.Context(), account.Name, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

func (l lab) deleteNow(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	now := int64(0)
	if err := l.admin.Client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
}

var (
	readPods     = allow("", "pods", "get list watch")
	readAccounts = allow("", "serviceaccounts", "get list watch")
	readKeys     = rbacv1.PolicyRule{NonResourceURLs: []string{discoveryPath, keysPath}, Verbs: []string{"get"}}
)

// testLocalTokens judges real tokens with the API server's real keys, and never asks it.
func testLocalTokens(t *testing.T, l lab) {
	const ns = "local-tokens"
	l.namespace(t, ns, nil)
	account := l.account(t, ns, "sleep")
	pod := l.pod(t, account, "sleep-1")
	api := l.as(t, readPods, readAccounts, readKeys)
	workloads := api.WatchWorkloads(WorkloadsOptions{Window: MinWindow, Log: logger(t)})
	tokens := api.LocalTokens(LocalTokenOptions{
		Audiences: []string{"mesh", mesh.TokenAudience}, Verification: VerifyLocal, Workloads: workloads, Log: logger(t),
	})
	run(t, workloads.Run)
	run(t, tokens.Run)

	good := l.token(t, account, pod, mesh.TokenAudience)
	want := TokenCaller{Namespace: ns, Account: "sleep", UID: string(account.UID), PodName: pod.Name, PodUID: string(pod.UID), Node: "n1", Local: true}
	got, err := judged(t, tokens, good)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v, caller (-want +got): %s", err, diff)
	}
	// Nothing of ours changes for longer than the window, and the watches prove that.
	began := time.Now()
	within(t, func() error {
		for name, m := range workloads.mirrors() {
			if d := m.proof.proven().Sub(began); d <= MinWindow {
				return fmt.Errorf("%s: proven for the first %v", name, d)
			}
		}
		return workloads.Ready()
	})

	refused := func(name, token string) {
		t.Helper()
		if caller, err := judged(t, tokens, token); !errors.Is(err, ErrUnauthenticated) || caller != (TokenCaller{}) {
			t.Errorf("%s: %v, %v", name, caller, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	own, err := api.OwnAudiences(t.Context())
	if err != nil || !slices.Contains(own, testIssuer) {
		t.Fatalf("audiences of the API server's own: %q, %v", own, err)
	}
	refused("for the API server", l.token(t, account, pod, testIssuer))

	// The API server's own key in the hands of somebody who can say what he wants.
	signed, err := jose.ParseSignedCompact(good, algorithms)
	if err != nil {
		t.Fatal(err)
	}
	var says dict
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &says); err != nil {
		t.Fatal(err)
	}
	header := dict{"alg": "RS256", "kid": signed.Signatures[0].Protected.KeyID}
	key := readKey(t, l.signingKey)
	if _, err := judged(t, tokens, sign(t, key, header, says)); err != nil {
		t.Errorf("signed again: %v", err)
	}
	refused("expired", sign(t, key, header, with(says, "exp", time.Now().Add(-2*leeway).Unix())))
	refused("alg none", raw(dict{"alg": "none", "kid": header["kid"]}, says, nil))
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	refused("public key as secret", sign(t, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), dict{"alg": "HS256", "kid": header["kid"]}, says))
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	refused("stranger's key", sign(t, stranger, header, says))
	refused("stranger's kid", sign(t, stranger, dict{"alg": "RS256", "kid": "stranger"}, says))
	refused("stranger's key in the header", sign(t, stranger, dict{"alg": "RS256", "kid": header["kid"],
		"jwk": jose.JSONWebKey{Key: stranger.Public(), KeyID: "k"}, "jku": "https://127.0.0.1:1/keys", "x5u": "https://127.0.0.1:1/cert"}, says))
	refused("another issuer", sign(t, key, header, with(says, "iss", "https://elsewhere.example")))

	testLiveness(t, l, workloads, tokens)
}

// judged is what a token proves. What cannot be told at the moment is asked again.
func judged(t *testing.T, tokens *LocalTokens, token string) (caller TokenCaller, err error) {
	t.Helper()
	within(t, func() error {
		caller, err = tokens.Review(t.Context(), token)
		return unavailable(err)
	})
	return caller, err
}

// unavailable returns the error if it says that nothing can be told at the moment.
func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return nil
}

func readKey(t *testing.T, file string) *rsa.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s holds no PEM block", file)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// testLiveness deletes and makes anew what tokens are bound to.
func testLiveness(t *testing.T, l lab, workloads *Workloads, tokens *LocalTokens) {
	const ns = "local-tokens"
	account := l.account(t, ns, "cart")
	pod := l.pod(t, account, "cart-1") // most likely the watches have not shown it when we ask
	token := l.token(t, account, pod, mesh.TokenAudience)
	if caller, err := judged(t, tokens, token); err != nil || caller.PodUID != string(pod.UID) {
		t.Errorf("new pod: %v, %v", caller, err)
	}
	onNode := func(node string) (pod mesh.Pod, err error) {
		within(t, func() error {
			pod, err = workloads.OnNode(t.Context(), node, ns, "cart")
			return unavailable(err)
		})
		return pod, err
	}
	on, err := onNode("n1")
	if err != nil || on.UID != string(pod.UID) || on.Account.UID != string(account.UID) {
		t.Errorf("on its node: %v, %v", on, err)
	}
	if _, err := onNode("n2"); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("on another node: %v", err)
	}

	gone := func(name, token string) {
		t.Helper()
		within(t, func() error {
			if caller, err := tokens.Review(t.Context(), token); !errors.Is(err, ErrUnauthenticated) {
				return fmt.Errorf("%s: %v, %w", name, caller, err)
			}
			return nil
		})
	}
	terminating := l.pod(t, account, "cart-2")
	last := l.token(t, account, terminating, mesh.TokenAudience)
	if err := l.admin.Client.CoreV1().Pods(ns).Delete(t.Context(), terminating.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("terminating pod", last)

	l.deleteNow(t, pod)
	gone("deleted pod", token)
	anew := l.pod(t, account, "cart-1")
	gone("pod made anew under its name", token)
	token = l.token(t, account, anew, mesh.TokenAudience)
	if _, err := judged(t, tokens, token); err != nil {
		t.Errorf("the new pod: %v", err)
	}

	podless := l.token(t, account, nil, mesh.TokenAudience)
	if caller, err := judged(t, tokens, podless); err != nil || caller.PodUID != "" {
		t.Errorf("token of no pod: %v, %v", caller, err)
	}
	if err := l.admin.Client.CoreV1().ServiceAccounts(ns).Delete(t.Context(), "cart", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("deleted account", token)
	gone("deleted account, no pod", podless)
	account = l.account(t, ns, "cart")
	gone("account made anew under its name", token)
	gone("account made anew under its name, no pod", podless)
	within(t, func() error {
		err := workloads.Alive(t.Context(), mesh.ServiceAccount{Namespace: ns, Name: "cart", UID: string(account.UID)}, anew.Name, string(anew.UID))
		if errors.Is(err, ErrUnauthenticated) {
			t.Fatalf("the new account with the pod of its name: %v", err)
		}
		return err
	})
	if _, err := judged(t, tokens, l.token(t, account, anew, mesh.TokenAudience)); err != nil {
		t.Errorf("the new account: %v", err)
	}
}

// testKeysForbidden takes away the right to read keys: tokens are reviewed then.
func testKeysForbidden(t *testing.T, l lab) {
	const ns = "keys-forbidden"
	l.namespace(t, ns, nil)
	account := l.account(t, ns, "sleep")
	pod := l.pod(t, account, "sleep-1")
	api := l.as(t, readPods, readAccounts, allow("authentication.k8s.io", "tokenreviews", "create"))
	workloads := api.WatchWorkloads(WorkloadsOptions{Log: logger(t)})
	audiences := []string{"mesh", mesh.TokenAudience}
	tokens := api.LocalTokens(LocalTokenOptions{
		Audiences: audiences, Workloads: workloads, Reviewer: api.Tokens(audiences, patience), Log: logger(t),
	})
	run(t, workloads.Run)
	run(t, tokens.Run)
	want := TokenCaller{Namespace: ns, Account: "sleep", UID: string(account.UID), PodName: pod.Name, PodUID: string(pod.UID), Node: "n1"}
	for _, audience := range audiences {
		within(t, func() error {
			got, err := tokens.Review(t.Context(), l.token(t, account, pod, audience))
			if diff := cmp.Diff(want, got); err == nil && diff != "" {
				t.Fatalf("caller (-want +got): %s", diff)
			}
			return err
		})
	}
	if _, err := judged(t, tokens, l.token(t, account, pod, testIssuer)); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("for the API server: %v", err)
	}
	if _, err := api.OwnAudiences(t.Context()); err == nil {
		t.Error("read the issuer without the right to")
	}
}
