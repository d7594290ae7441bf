package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestOptions runs the command with options that say who is certified, who gets a Secret
// and which keys are made: each has to arrive where it is obeyed.
func TestOptions(t *testing.T) {
	l, kubeconfig := newLab(t)
	l.makeAccount(t, "ztunnel", "")
	l.makeAccount(t, "idle", "wanted")
	l.makePod(t, "sleep-1", "sleep", "node-1")
	l.makePod(t, "ztunnel-1", "ztunnel", "node-1")
	l.makePod(t, "ztunnel-2", "ztunnel", "node-2")

	r := start(t, kubeconfig, "citadel-a", "--podless-accounts=default/sleep", "--trusted-node-accounts=default/ztunnel",
		"--secret-only-used", "--secret-account-selector=secret=wanted", "--ca-key=p384", "--revocation-window=20s")
	r.expectReady(t)
	r.expectMetrics(t, "citadel_server_revocation_window_seconds 20")
	root := l.root(t)
	t.Run("podless accounts", func(t *testing.T) { l.expectPodless(t, r, root) })
	t.Run("trusted node accounts", func(t *testing.T) { l.expectImpersonation(t, r, root) })
	t.Run("accounts with Secrets", l.expectChosen)
	t.Run("keys of P-384", func(t *testing.T) { l.expectKeys(t, r, "P-384") })
	r.stop(t)

	for _, name := range []string{mesh.CASecret, mesh.IntermediateSecret} {
		if err := l.CoreV1().Secrets(mesh.SystemNamespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r = start(t, kubeconfig, "citadel-b", "--ca-key=rsa2048")
	r.expectReady(t)
	t.Run("keys of RSA", func(t *testing.T) { l.expectKeys(t, r, "RSA 2048") })
}

// expectPodless asks with tokens that are bound to no pod: only sleep is on the list.
func (l lab) expectPodless(t *testing.T, r replica, root string) {
	chain, err := r.certify(t, root, "Bearer "+l.token(t, mesh.TokenAudience, ""))
	if err != nil {
		t.Fatal(err)
	}
	expectSleep(t, chain[0]+chain[1], root)
	if _, err := r.certify(t, root, "Bearer "+l.tokenOf(t, "ztunnel", mesh.TokenAudience, "")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("an account that is not on the list: %v", err)
	}
	r.expectMetrics(t, `citadel_server_refusals_total{rule="token-pod"} 1`)
}

// expectImpersonation asks for the sleep account as ztunnel does: only ztunnel may, and
// only for whom its own node runs.
func (l lab) expectImpersonation(t *testing.T, r replica, root string) {
	asks := readVectors(t, "other-clients.json")["ztunnel"]
	chain, err := r.replay(t, root, asks, l.tokenOf(t, "ztunnel", mesh.TokenAudience, "ztunnel-1"))
	if err != nil {
		t.Fatal(err)
	}
	expectSleep(t, chain[0]+chain[1], root)
	for account, pod := range map[string]string{"ztunnel": "ztunnel-2", "sleep": "sleep-1"} {
		if _, err := r.replay(t, root, asks, l.tokenOf(t, account, mesh.TokenAudience, pod)); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", pod, err)
		}
	}
	r.expectMetrics(t, `citadel_server_refusals_total{rule="impersonation-pod"} 1`, `citadel_server_refusals_total{rule="impersonation"} 1`)
}

// expectChosen waits for the Secret of an account that has the label and a pod, made after
// those that lack one of them: had they been due for a Secret, they would have it.
func (l lab) expectChosen(t *testing.T) {
	l.makeAccount(t, "late", "wanted")
	l.makePod(t, "late", "late", "")
	secrets := l.CoreV1().Secrets("default")
	eventually(t, "the Secret of an account with label and pod", func(ctx context.Context) error {
		_, err := secrets.Get(ctx, mesh.WorkloadSecret("late"), metav1.GetOptions{})
		return err
	})
	found, err := secrets.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range found.Items {
		names = append(names, s.Name)
	}
	if !slices.Equal(names, []string{mesh.WorkloadSecret("late")}) {
		t.Errorf("Secrets %q", names)
	}
}

// makeAccount makes an account with a value of label secret.
func (l lab) makeAccount(t *testing.T, name, secret string) {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"secret": secret}}}
	if _, err := l.CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// expectKeys holds the CA's keys to a kind, and the replica to certify with them.
func (l lab) expectKeys(t *testing.T, r replica, kind string) {
	made := map[string]string{} // certificates
	for _, name := range []string{mesh.CASecret, mesh.IntermediateSecret} {
		secret, err := l.CoreV1().Secrets(mesh.SystemNamespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(secret.Data[mesh.CACertKey], secret.Data[mesh.CAKeyKey])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got string
		switch key := pair.Leaf.PublicKey.(type) {
		case *ecdsa.PublicKey:
			got = key.Params().Name
		case *rsa.PublicKey:
			got = fmt.Sprintf("RSA %d", key.N.BitLen())
		}
		if got != kind {
			t.Errorf("%s: %q, want %q", name, got, kind)
		}
		made[name] = string(secret.Data[mesh.CACertKey])
	}
	chain := certifyBelow(t, r, made[mesh.CASecret], "Bearer "+l.token(t, mesh.TokenAudience, "sleep"))
	if len(chain) != 3 || chain[1] != made[mesh.IntermediateSecret] {
		t.Errorf("%d elements, want leaf, what is in %s, and roots", len(chain), mesh.IntermediateSecret)
	}
}
