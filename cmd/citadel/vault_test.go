package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/garrison-mesh/garrison/internal/cli"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestCANamespace runs the command as its own account, with what garrison manifests
// citadel grants in the place of all Secrets of the cluster: the CA is made and renewed
// in a namespace of its own, and nothing that Citadel does is refused.
func TestCANamespace(t *testing.T) {
	l, kubeconfig := newLab(t)
	var printed bytes.Buffer
	rights := []string{"manifests", "citadel", "--namespaces", "default", "--ca-namespace", "vault"}
	if err := cli.Run(t.Context(), cli.Env{Out: &printed, Err: t.Output()}, rights...); err != nil {
		t.Fatal(err)
	}
	apply(t, kubeconfig, &printed)
	for _, file := range []string{"citadel.yaml", "citadel-policy.yaml"} {
		text, err := os.ReadFile("../../manifests/base/" + file)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, kubeconfig, bytes.NewReader(text))
	}

	r := start(t, l.asCitadel(t, kubeconfig), "citadel-v", "--ca-namespace=vault", "--secret-namespaces=default")
	r.expectReady(t)
	root := l.root(t)
	vault := l.CoreV1().Secrets("vault")
	made, err := vault.Get(t.Context(), mesh.CASecret, metav1.GetOptions{})
	if err != nil || string(made.Data[mesh.RootKey]) != root {
		t.Fatalf("the root in the vault is not the one published: %v", err)
	}
	for _, name := range []string{mesh.CASecret, mesh.IntermediateSecret} {
		if _, err := l.CoreV1().Secrets(mesh.SystemNamespace).Get(t.Context(), name, metav1.GetOptions{}); err == nil {
			t.Errorf("%s is in %s", name, mesh.SystemNamespace)
		}
	}
	var secret *corev1.Secret
	eventually(t, "the Secret of an account", func(ctx context.Context) error {
		secret, err = l.CoreV1().Secrets("default").Get(ctx, "istio.sleep", metav1.GetOptions{})
		return err
	})
	expectSleep(t, string(secret.Data[mesh.CertChain]), root)

	roots, spoilt := l.CoreV1().ConfigMaps("quiet"), []byte(`{"data":{"root-cert.pem":"spoilt"}}`)
	if _, err := roots.Patch(t.Context(), mesh.RootConfigMap, types.MergePatchType, spoilt, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the roots are put right", func(ctx context.Context) error {
		found, err := roots.Get(ctx, mesh.RootConfigMap, metav1.GetOptions{})
		if err == nil && found.Data[mesh.RootKey] != root {
			err = errors.New("not yet")
		}
		return err
	})

	// What signs has lived most of its life: it is renewed in its place.
	intermediate, err := vault.Get(t.Context(), mesh.IntermediateSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	intermediate.ResourceVersion = "" // whoever writes meanwhile
	intermediate.Data[mesh.CACertKey], intermediate.Data[mesh.CAKeyKey] = due(t, made)
	if intermediate, err = vault.Update(t.Context(), intermediate, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what signs is renewed", func(ctx context.Context) error {
		found, err := vault.Get(ctx, mesh.IntermediateSecret, metav1.GetOptions{})
		if err == nil && bytes.Equal(found.Data[mesh.CACertKey], intermediate.Data[mesh.CACertKey]) {
			err = errors.New("not yet")
		}
		if err == nil && found.UID != intermediate.UID {
			t.Error("it was made anew")
		}
		return err
	})
	if got := l.root(t); got != root {
		t.Error("there is another root")
	}
	if log := r.stop(t); strings.Contains(log, "forbidden") {
		t.Errorf("something was refused:\n%s", log)
	}
}

// apply creates the objects of a stream that say who may do what, but for the binding
// that grants the Secrets of the whole cluster.
func apply(t *testing.T, kubeconfig string, stream io.Reader) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for decoder := yaml.NewYAMLOrJSONDecoder(stream, 4096); ; {
		u := &unstructured.Unstructured{}
		if err := decoder.Decode(u); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		plural, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		var to dynamic.ResourceInterface = client.Resource(plural)
		switch u.GetKind() {
		case "ServiceAccount", "Service", "Deployment", "PodDisruptionBudget":
			continue
		case "ClusterRoleBinding":
			if u.GetName() == "garrison-citadel-secrets" {
				continue
			}
		case "Role", "RoleBinding":
			if u.GetNamespace() == "" {
				u.SetNamespace(mesh.SystemNamespace)
			}
			to = client.Resource(plural).Namespace(u.GetNamespace())
		}
		if _, err := to.Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// asCitadel returns a kubeconfig for Citadel's account, once the API server has heard
// of what it is granted.
func (l lab) asCitadel(t *testing.T, kubeconfig string) (file string) {
	t.Helper()
	token, err := l.CoreV1().ServiceAccounts(mesh.SystemNamespace).
		CreateToken(t.Context(), mesh.ServerAccount(mesh.CitadelService), &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	file = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	own, err := cluster.Connect(file)
	if err != nil {
		t.Fatal(err)
	}
	l.rightsInForce(t)
	_, inDefault := own.Client.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	_, inVault := own.Client.CoreV1().Secrets("vault").List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + mesh.CASecret})
	if err := errors.Join(inDefault, inVault); err != nil {
		t.Error(err)
	}
	if _, err := own.Client.CoreV1().Secrets("quiet").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("Citadel may read the Secrets of a namespace that was not named")
	}
	return file
}

// rightsInForce returns when the API server goes by all roles and bindings that were written
// before. It learns of each of the four kinds in the order of the writes, so that it knows of
// them when it goes by the last.
func (l lab) rightsInForce(t *testing.T) {
	t.Helper()
	const name, namespace = "last", metav1.NamespaceDefault
	object, options := metav1.ObjectMeta{Name: name}, metav1.CreateOptions{}
	user := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}
	_, err1 := l.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: object, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/last"}}},
	}, options)
	_, err2 := l.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: object, Subjects: user, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	}, options)
	_, err3 := l.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: object, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}},
	}, options)
	_, err4 := l.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: object, Subjects: user, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
	}, options)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []authorizationv1.SubjectAccessReviewSpec{
		{User: name, NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/last", Verb: "get"}},
		{User: name, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Resource: "pods", Verb: "get"}},
	} {
		eventually(t, "rights are in force", func(ctx context.Context) error {
			answer, err := l.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, options)
			if err == nil && !answer.Status.Allowed {
				err = errors.New("not yet")
			}
			return err
		})
	}
}

// due returns a certificate below the root in a Secret, and its key, in PEM, that has less
// than a third of its life left.
func due(t *testing.T, root *corev1.Secret) (cert, key []byte) {
	t.Helper()
	block, _ := pem.Decode(root.Data[mesh.CACertKey])
	parent, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(root.Data[mesh.CAKeyKey])
	signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(fmt.Errorf("root key: %w", err))
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"cluster.local"}, CommonName: "due"}, SubjectKeyId: []byte("due"),
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(40 * time.Minute),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, parent, own.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}
