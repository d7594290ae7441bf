package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// The account that certificates are asked for.
const (
	shop = "shop"
	cart = "cart"
)

// mint makes tokens as the API server makes them, with its own key: asking it for
// ten thousand would take longer than what is to be measured.
type mint struct {
	client *kubernetes.Clientset
	signer jose.Signer
	claims map[string]any // of a token that the API server made
}

func newMint(ctx context.Context, client *kubernetes.Clientset, keyFile string) (*mint, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	answer, err := client.CoreV1().ServiceAccounts(shop).CreateToken(ctx, cart, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{mesh.TokenAudience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	parsed, err := jose.ParseSignedCompact(answer.Status.Token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return nil, err
	}
	header := parsed.Signatures[0].Header
	m := &mint{client: client}
	m.signer, err = jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(header.Algorithm), Key: jose.JSONWebKey{Key: key, KeyID: header.KeyID},
	}, nil)
	if err != nil {
		return nil, err
	}
	token, err := jwt.ParseSigned(answer.Status.Token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return nil, err
	}
	return m, token.Claims(key.Public(), &m.claims)
}

func readKey(file string) (crypto.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: not PEM", file)
	}
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
	} {
		if key, err := parse(block.Bytes); err == nil {
			return key.(crypto.Signer), nil
		}
	}
	return nil, fmt.Errorf("%s: no private key", file)
}

// tokens makes so many pods of the account, and a token for each.
func (m *mint) tokens(ctx context.Context, count int) ([]string, error) {
	return inParallel(ctx, count, m.token)
}

// inParallel calls f so many times, some of them at a time. The first error ends it.
func inParallel[T any](ctx context.Context, count int, f func(context.Context) (T, error)) ([]T, error) {
	all := make([]T, count)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg   sync.WaitGroup
		next atomic.Int64
	)
	for range caClients {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < count && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				var err error
				if all[i], err = f(ctx); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return all, context.Cause(ctx)
}

// token makes a pod that no node gets, and its token.
func (m *mint) token(ctx context.Context) (string, error) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: cart + "-"},
		Spec: corev1.PodSpec{
			ServiceAccountName: cart,
			Containers:         []corev1.Container{{Name: cart, Image: "example.com/cart"}},
		},
	}
	pod, err := m.client.CoreV1().Pods(shop).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	old, ok := m.claims["kubernetes.io"].(map[string]any)
	if !ok {
		return "", errors.New("no claims of Kubernetes")
	}
	now := time.Now()
	claims := map[string]any{
		"aud": m.claims["aud"], "iss": m.claims["iss"], "sub": m.claims["sub"], "jti": string(pod.UID),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": old["namespace"], "serviceaccount": old["serviceaccount"],
			"pod": map[string]any{"name": pod.Name, "uid": pod.UID},
		},
	}
	return jwt.Signed(m.signer).Claims(claims).Serialize()
}
