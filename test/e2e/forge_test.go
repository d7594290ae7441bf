package e2e

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"

	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/rogpeppe/go-internal/testscript"
)

// forge FILE NAMESPACE ACCOUNT AGE writes a service account token, audience
// istio-ca, that ends AGE from now and is bound to the pod of the account's name, signed
// with the key of the lab's API server: TokenRequest would refuse so short a life.
func forge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: forge file namespace account duration")
	}
	namespace, account := args[1], args[2]
	left, err := time.ParseDuration(args[3])
	ts.Check(err)
	uid := kubectl(ts, "-n", namespace, "get", "serviceaccount", account, "-o", "jsonpath={.metadata.uid}")
	podUID := kubectl(ts, "-n", namespace, "get", "pod", account, "-o", "jsonpath={.metadata.uid}")
	key := signingKey(ts)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key},
		(&jose.SignerOptions{}).WithHeader("kid", keyID(ts, &key.PublicKey)))
	ts.Check(err)
	end := time.Now().Add(left)
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer:    "https://kubernetes.default.svc.cluster.local",
		Subject:   "system:serviceaccount:" + namespace + ":" + account,
		Audience:  jwt.Audience{"istio-ca"},
		Expiry:    jwt.NewNumericDate(end),
		IssuedAt:  jwt.NewNumericDate(end.Add(-2 * time.Hour)),
		NotBefore: jwt.NewNumericDate(end.Add(-2 * time.Hour)),
	}).Claims(map[string]any{"kubernetes.io": map[string]any{
		"namespace":      namespace,
		"serviceaccount": map[string]any{"name": account, "uid": uid},
		"pod":            map[string]any{"name": account, "uid": podUID},
	}}).Serialize()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(token), 0o600))
}

// signingKey reads the key that the lab keeps beside its kubeconfig.
func signingKey(ts *testscript.TestScript) *rsa.PrivateKey {
	data, err := os.ReadFile(filepath.Join(filepath.Dir(ts.Getenv("KUBECONFIG")), "sa.key"))
	ts.Check(err)
	block, _ := pem.Decode(data)
	if block == nil {
		ts.Fatalf("sa.key holds no PEM block")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	ts.Check(err)
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		ts.Fatalf("sa.key is a %T, want RSA", parsed)
	}
	return key
}

// keyID is the id under which the API server publishes the key.
func keyID(ts *testscript.TestScript, want *rsa.PublicKey) string {
	var set jose.JSONWebKeySet
	ts.Check(json.Unmarshal([]byte(kubectl(ts, "get", "--raw", "/openid/v1/jwks")), &set))
	for _, key := range set.Keys {
		if public, ok := key.Key.(*rsa.PublicKey); ok && public.Equal(want) {
			return key.KeyID
		}
	}
	ts.Fatalf("the API server publishes no key that is sa.key (/openid/v1/jwks)")
	return ""
}
