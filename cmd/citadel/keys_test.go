package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// testKeys lives through what operators do to the CA of a mesh that has the root.
func testKeys(t *testing.T, l lab, kubeconfig, root string) {
	token := "Bearer " + l.token(t, mesh.TokenAudience, "sleep")
	secrets := l.CoreV1().Secrets(mesh.SystemNamespace)
	patch := func(name, text string) {
		t.Helper()
		if _, err := secrets.Patch(t.Context(), name, types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	certify := func(r replica) (chain []string) {
		t.Helper()
		chain, err := r.certify(t, root, token)
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		expectSleep(t, strings.Join(chain[:len(chain)-1], ""), root)
		return chain
	}
	notes := func(r replica, want string) {
		t.Helper()
		eventually(t, r.name+" notes "+want, func(ctx context.Context) error {
			text, err := r.get(ctx, "/readyz")
			if err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("ready: %s", text)
			}
			return err
		})
	}
	own, err := secrets.Get(t.Context(), mesh.CASecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}

	// Without the root key a replica runs on, and another one starts.
	first := start(t, kubeconfig, "citadel-c")
	first.expectReady(t)
	patch(mesh.CASecret, `{"data":{"ca-key.pem":null}}`)
	notes(first, "root key offline")
	second := start(t, kubeconfig, "citadel-d")
	second.expectReady(t)
	notes(second, "root key offline")
	before := certify(second)

	// The root's Secret is gone; whoever starts brings back all but the key.
	if err := secrets.Delete(t.Context(), mesh.CASecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	notes(first, "istio-ca-secret: is not there")
	third := start(t, kubeconfig, "citadel-e")
	third.expectReady(t)
	certify(third)
	notes(first, "root key offline")

	// With the key back, an intermediate that is deleted is made anew, and all follow.
	patch(mesh.CASecret, fmt.Sprintf(`{"data":{"ca-key.pem":%q}}`, base64.StdEncoding.EncodeToString(own.Data[mesh.CAKeyKey])))
	if err := secrets.Delete(t.Context(), mesh.IntermediateSecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []replica{first, second, third} {
		eventually(t, r.name+" signs with the new one", func(context.Context) error {
			// Whoever asks this often may be told to come back.
			chain, err := r.certify(t, root, token)
			if err == nil && chain[1] == before[1] {
				err = errors.New("still the one before")
			}
			return err
		})
	}
	second.stop(t)
	third.stop(t)

	// Another root is appended to a root-cert.pem that is empty, as Citadel 1.1 left it: ours
	// stays one of the roots, also for whoever starts then.
	const day = 24 * time.Hour
	theirs, err := ca.NewRoot(ca.RootOptions{TTL: 20 * day}, time.Now().Add(-18*day)) // is worth a warning
	if err != nil {
		t.Fatal(err)
	}
	for _, further := range []string{string(theirs.Data[mesh.RootKey]), ""} {
		patch(mesh.CASecret, fmt.Sprintf(`{"data":{"root-cert.pem":%q}}`, base64.StdEncoding.EncodeToString([]byte(further))))
		eventually(t, "the roots that are published", func(context.Context) error {
			if got := l.root(t); got != root+further {
				return fmt.Errorf("%d bytes, want %d", len(got), len(root+further))
			}
			return nil
		})
		late := start(t, kubeconfig, "citadel-f")
		late.expectReady(t)
		certify(late)
		late.stop(t)
	}

	// A CA is plugged in: refused while its roots lack ours, taken when they have it.
	cacerts := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: mesh.PluggedSecret}, Data: map[string][]byte{
		mesh.CACertKey: theirs.Data[mesh.CACertKey], mesh.CAKeyKey: theirs.Data[mesh.CAKeyKey],
		mesh.CertChain: {}, mesh.RootKey: theirs.Data[mesh.RootKey],
	}}
	if cacerts, err = secrets.Create(t.Context(), cacerts, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	notes(first, "set trust-domain")
	first.stop(t)
	expectNoStart(t, kubeconfig, "set trust-domain")
	expectNoStart(t, kubeconfig, "add that to root-cert.pem", "--trust-domain=cluster.local") // no workload knows it
	both := base64.StdEncoding.EncodeToString(append(theirs.Data[mesh.RootKey], root...))
	patch(mesh.PluggedSecret, fmt.Sprintf(`{"data":{"root-cert.pem":%q}}`, both))
	plugged := start(t, kubeconfig, "citadel-g", "--trust-domain=cluster.local")
	plugged.expectReady(t)
	eventually(t, "the note that a CA is plugged in", func(ctx context.Context) error {
		found, err := secrets.Get(ctx, mesh.IntermediateSecret, metav1.GetOptions{})
		if err == nil && found.Annotations[mesh.CASourceAnnotation] != mesh.CAPlugged {
			err = fmt.Errorf("annotations %v", found.Annotations)
		}
		return err
	})
	if chain := certifyBelow(t, plugged, string(theirs.Data[mesh.RootKey]), token); len(chain) != 2 {
		t.Errorf("%d elements, want leaf and roots", len(chain))
	}
	l.expectWarning(t, cacerts)

	// It goes: the one that runs goes on, none starts with another.
	if err := secrets.Delete(t.Context(), mesh.PluggedSecret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	notes(plugged, "put secret cacerts back")
	certifyBelow(t, plugged, string(theirs.Data[mesh.RootKey]), token)
	expectNoStart(t, kubeconfig, "put secret cacerts back", "--trust-domain=cluster.local")
	if strings.Contains(plugged.stop(t), "PRIVATE KEY") {
		t.Error("a key was logged")
	}
}

// certifyBelow asks a replica whose own certificate may hang from either root.
func certifyBelow(t *testing.T, r replica, root, authorization string) []string {
	t.Helper()
	var chain []string
	eventually(t, r.name+" serves below the new root", func(context.Context) (err error) {
		chain, err = r.certify(t, root, authorization)
		return err
	})
	expectSleep(t, strings.Join(chain[:len(chain)-1], ""), root)
	return chain
}

// expectNoStart runs a replica that has to end with an error that says why.
func expectNoStart(t *testing.T, kubeconfig, why string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := run(ctx, append([]string{
		"--kubeconfig", kubeconfig, "--pod-name", "citadel-x", "--listen", meshtest.Address(t), "--admin", meshtest.Address(t),
	}, args...), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("ended with %v, want an error about %q", err, why)
	}
}
