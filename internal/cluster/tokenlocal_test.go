package cluster

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
)

type dict = map[string]any

// cartClaims are what the token of the cart pod says at that time, as API servers
// write it.
func cartClaims(now time.Time) dict {
	return dict{
		"iss": testIssuer, "aud": []string{"istio-ca"}, "sub": "system:serviceaccount:shop:cart",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": "e7d9",
		"kubernetes.io": dict{
			"namespace":      "shop",
			"serviceaccount": dict{"name": "cart", "uid": "a1"},
			"pod":            dict{"name": "cart-1", "uid": "p1"},
			"node":           dict{"name": "n1", "uid": "n"},
			"warnafter":      now.Add(time.Hour).Unix(),
		},
	}
}

// with returns claims with one of them another, below kubernetes.io where the name
// begins with a dot; nil takes it away.
func with(c dict, name string, value any) dict {
	c = maps.Clone(c)
	in := c
	if below, ok := strings.CutPrefix(name, "."); ok {
		in, name = maps.Clone(c["kubernetes.io"].(dict)), below
		c["kubernetes.io"] = in
	}
	if in[name] = value; value == nil {
		delete(in, name)
	}
	return c
}

// sign returns a token.
func sign(t testing.TB, key any, header, claims dict) string {
	t.Helper()
	algorithm := jose.SignatureAlgorithm(header["alg"].(string))
	opts := &jose.SignerOptions{}
	for name, value := range header {
		if name != "alg" {
			opts = opts.WithHeader(jose.HeaderKey(name), value)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(must(json.Marshal(claims)))
	if err != nil {
		t.Fatal(err)
	}
	return must(signed.CompactSerialize())
}

// raw returns a token with that signature, whatever the header says of it.
func raw(header, claims any, signature []byte) string {
	part := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	return part(must(json.Marshal(header))) + "." + part(must(json.Marshal(claims))) + "." + part(signature)
}

// signES384 signs as no library would: with a key of another curve than the algorithm's.
func signES384(header, claims dict) string {
	unsigned := strings.TrimSuffix(raw(header, claims, nil), ".")
	sum := sha512.Sum384([]byte(unsigned))
	r, s, err := ecdsa.Sign(rand.Reader, ecKey(), sum[:])
	if err != nil {
		panic(err)
	}
	return raw(header, claims, append(r.FillBytes(make([]byte, 48)), s.FillBytes(make([]byte, 48))...))
}

// judge is a judge of tokens whose API server publishes the keys "r" and "e", and whose
// watches show the cart pod; what it asks the API server's review is counted.
type judge struct {
	*LocalTokens
	api     *published
	view    *Workloads
	reviews atomic.Int32
	metrics *prometheus.Registry
}

func newJudge(t testing.TB, mode Verification) *judge {
	j := &judge{api: publish(map[string]crypto.PublicKey{"r": rsaKey().Public(), "e": ecKey().Public()}), metrics: prometheus.NewRegistry()}
	both := []apiruntime.Object{cartAccount("a1"), cartPod(nil)}
	j.view, _ = viewOf(t, both, both)
	j.LocalTokens = (&API{}).LocalTokens(LocalTokenOptions{
		Audiences: []string{"istio-ca", "mesh"}, Verification: mode, Workloads: j.view, Metrics: j.metrics,
		Reviewer: reviewerOf(func(context.Context) error { j.reviews.Add(1); return nil }),
	})
	j.keys = newTokenKeys(j.api.get, orDiscard(nil))
	return j
}

func (j *judge) metric(t *testing.T, name string, labels ...string) (value float64) {
	t.Helper()
	families, err := j.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if f.GetName() == "citadel_server_"+name && (len(labels) == 0 || cmp.Equal(got, labels)) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %q", name, labels)
	return 0
}

var (
	byRSA = dict{"alg": "RS256", "kid": "r"}
	byEC  = dict{"alg": "ES256", "kid": "e"}

	cart = TokenCaller{Namespace: "shop", Account: "cart", UID: "a1", PodName: "cart-1", PodUID: "p1", Node: "n1", Local: true}
)

func TestLocalToken(t *testing.T) {
	now := time.Now()
	good := cartClaims(now)
	forged := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	stranger := must(rsa.GenerateKey(rand.Reader, 2048))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(rsaKey().Public()))})
	podless := with(with(good, ".pod", nil), ".node", nil)
	header, payload, signature := cut3(sign(t, rsaKey(), byRSA, good))
	after := func(d time.Duration) int64 { return now.Add(d).Unix() }

	for name, c := range map[string]struct {
		token string
		want  any // a caller, an error, or the reason for a review
	}{
		"RS256":                {sign(t, rsaKey(), byRSA, good), cart},
		"ES256":                {sign(t, ecKey(), byEC, good), cart},
		"one audience, a text": {sign(t, ecKey(), byEC, with(good, "aud", "mesh")), cart},
		"several audiences":    {sign(t, ecKey(), byEC, with(good, "aud", []string{"x", "istio-ca"})), cart},
		"no pod":               {sign(t, ecKey(), byEC, podless), TokenCaller{Namespace: "shop", Account: "cart", UID: "a1", Local: true}},
		"clock apart":          {sign(t, ecKey(), byEC, with(with(good, "nbf", after(leeway-5*time.Second)), "iat", after(leeway-5*time.Second))), cart},

		"empty":                {"", ErrUnauthenticated},
		"no JWT":               {"garbage", ErrUnauthenticated},
		"two parts":            {header + "." + payload, ErrUnauthenticated},
		"four parts":           {header + "." + payload + "." + signature + ".x", ErrUnauthenticated},
		"JSON form":            {must(jose.ParseSignedCompact(header+"."+payload+"."+signature, algorithms)).FullSerialize(), ErrUnauthenticated},
		"foreign signature":    {header + "." + payload + "." + strings.Repeat("A", len(signature)), ErrUnauthenticated},
		"no signature":         {header + "." + payload + ".", ErrUnauthenticated},
		"other payload":        {header + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(with(good, "exp", 9e9)))) + "." + signature, ErrUnauthenticated},
		"foreign key":          {sign(t, stranger, byRSA, good), ErrUnauthenticated},
		"alg none":             {raw(dict{"alg": "none", "kid": "r"}, good, nil), ErrUnauthenticated},
		"alg None":             {raw(dict{"alg": "None", "kid": "r"}, good, nil), ErrUnauthenticated},
		"no alg":               {raw(dict{"kid": "r"}, good, []byte("x")), ErrUnauthenticated},
		"public key as secret": {sign(t, public, dict{"alg": "HS256", "kid": "r"}, good), ErrUnauthenticated},
		"PS256":                {sign(t, rsaKey(), dict{"alg": "PS256", "kid": "r"}, good), ErrUnauthenticated},
		"RS512":                {sign(t, rsaKey(), dict{"alg": "RS512", "kid": "r"}, good), ErrUnauthenticated},
		"alg of another key":   {sign(t, rsaKey(), dict{"alg": "RS256", "kid": "e"}, good), ErrUnauthenticated},
		"ES384 by a P-256 key": {signES384(dict{"alg": "ES384", "kid": "e"}, good), ErrUnauthenticated},
		"no kid":               {sign(t, rsaKey(), dict{"alg": "RS256"}, good), ErrUnauthenticated},
		"empty kid":            {sign(t, rsaKey(), dict{"alg": "RS256", "kid": ""}, good), ErrUnauthenticated},
		"kid is no text":       {raw(dict{"alg": "RS256", "kid": dict{"a": 1}}, good, []byte("x")), ErrUnauthenticated},
		"kid is a path":        {sign(t, rsaKey(), dict{"alg": "RS256", "kid": "../../openid/v1/jwks#r"}, good), ErrUnauthenticated},
		"kid of another case":  {sign(t, rsaKey(), dict{"alg": "RS256", "kid": "R"}, good), ErrUnauthenticated},
		"unknown kid":          {sign(t, stranger, dict{"alg": "RS256", "kid": "s"}, good), ErrUnauthenticated},
		"key in the header": {sign(t, forged, dict{"alg": "ES256", "kid": "e", "jwk": jose.JSONWebKey{Key: forged.Public(), KeyID: "e"}}, good),
			ErrUnauthenticated},
		"URLs in the header": {sign(t, forged, dict{"alg": "ES256", "kid": "e", "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}, good),
			ErrUnauthenticated},
		"jku of a good token": {sign(t, ecKey(), dict{"alg": "ES256", "kid": "e", "jku": "http://127.0.0.1:1/"}, good), cart},
		"crit":                {sign(t, ecKey(), dict{"alg": "ES256", "kid": "e", "crit": []string{"x"}, "x": 1}, good), ErrUnauthenticated},

		"other audience":    {sign(t, ecKey(), byEC, with(good, "aud", []string{testIssuer})), ErrUnauthenticated},
		"no audience":       {sign(t, ecKey(), byEC, with(good, "aud", nil)), ErrUnauthenticated},
		"empty audience":    {sign(t, ecKey(), byEC, with(good, "aud", []string{""})), ErrUnauthenticated},
		"expired":           {sign(t, ecKey(), byEC, with(good, "exp", after(-leeway-time.Second))), ErrUnauthenticated},
		"without end":       {sign(t, ecKey(), byEC, with(good, "exp", nil)), ErrUnauthenticated},
		"end is no number":  {sign(t, ecKey(), byEC, with(good, "exp", "never")), ErrUnauthenticated},
		"not yet":           {sign(t, ecKey(), byEC, with(good, "nbf", after(leeway+time.Hour))), ErrUnauthenticated},
		"issued later":      {sign(t, ecKey(), byEC, with(good, "iat", after(leeway+time.Hour))), ErrUnauthenticated},
		"no Kubernetes":     {sign(t, ecKey(), byEC, with(good, "kubernetes.io", nil)), ErrUnauthenticated},
		"no namespace":      {sign(t, ecKey(), byEC, with(good, ".namespace", "")), ErrUnauthenticated},
		"no account UID":    {sign(t, ecKey(), byEC, with(good, ".serviceaccount", dict{"name": "cart"})), ErrUnauthenticated},
		"other subject":     {sign(t, ecKey(), byEC, with(good, "sub", "system:serviceaccount:bank:cart")), ErrUnauthenticated},
		"subject a person":  {sign(t, ecKey(), byEC, with(good, "sub", "alice")), ErrUnauthenticated},
		"half a pod":        {sign(t, ecKey(), byEC, with(good, ".pod", dict{"name": "cart-1"})), ErrUnauthenticated},
		"not an object":     {sign(t, ecKey(), byEC, with(good, "kubernetes.io", "x")), ErrUnauthenticated},
		"former account":    {sign(t, ecKey(), byEC, with(good, ".serviceaccount", dict{"name": "cart", "uid": "a0"})), ErrUnauthenticated},
		"former pod":        {sign(t, ecKey(), byEC, with(good, ".pod", dict{"name": "cart-1", "uid": "p0"})), ErrUnauthenticated},
		"pod of another":    {sign(t, ecKey(), byEC, with(with(good, ".serviceaccount", dict{"name": "pay", "uid": "a2"}), "sub", "system:serviceaccount:shop:pay")), ErrUnauthenticated},
		"foreign issuer":    {sign(t, ecKey(), byEC, with(good, "iss", "https://elsewhere.example")), undoneIssuer},
		"forged and issuer": {sign(t, forged, byEC, with(good, "iss", "https://elsewhere.example")), ErrUnauthenticated},
		"bound to a Secret": {sign(t, ecKey(), byEC, with(podless, ".secret", dict{"name": "s", "uid": "s"})), undoneBinding},
		"bound to a node":   {sign(t, ecKey(), byEC, with(podless, ".node", dict{"name": "n1", "uid": "n"})), undoneBinding},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJudge(t, VerifyAuto)
			got, err := j.Review(t.Context(), c.token)
			switch want := c.want.(type) {
			case TokenCaller:
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("%v, caller (-want +got): %s", err, diff)
				}
			case error:
				if !errors.Is(err, want) || got != (TokenCaller{}) {
					t.Errorf("%v, %v, want %v", got, err, want)
				}
				for _, part := range append(strings.Split(c.token, "."), c.token) {
					if len(part) > 8 && err != nil && strings.Contains(err.Error(), part) {
						t.Errorf("the error holds %q", part)
					}
				}
			case string:
				if err != nil || got.Local || j.reviews.Load() != 1 || j.metric(t, "token_fallbacks_total", want) != 1 {
					t.Errorf("%v, %v after %d reviews, want a review for %s", got, err, j.reviews.Load(), want)
				}
				if _, err := newJudge(t, VerifyLocal).Review(t.Context(), c.token); !errors.Is(err, ErrUnauthenticated) {
					t.Errorf("where none is asked: %v", err)
				}
				return
			}
			if n := j.reviews.Load(); n != 0 {
				t.Errorf("%d reviews were asked for", n)
			}
			if n := j.api.reads.Load(); n > 1 {
				t.Errorf("keys were read %d times", n)
			}
		})
	}
}

func cut3(token string) (header, payload, signature string) {
	parts := strings.Split(token, ".")
	return parts[0], parts[1], parts[2]
}

// What cannot be judged here goes to the API server, or is unavailable; a stale yes
// there is none, and no stale no either.
func TestFallBack(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*judge)
		reason string
	}{
		"keys unreadable": {func(j *judge) { j.api.err = errors.New("forbidden") }, undoneKeys},
		"keys hang":       {func(j *judge) { j.api.delay = time.Hour }, undoneKeys},
		"view outdated":   {func(*judge) { time.Sleep(DefaultWindow + time.Second) }, undoneView},
		"too many lookups": {func(j *judge) {
			if err := j.view.pods.Delete(cartPod(nil)); err != nil {
				panic(err)
			}
			for j.view.lookups.TryAccept() {
			}
		}, undoneLookups},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				token := sign(t, ecKey(), byEC, cartClaims(time.Now()))
				auto, local, review := newJudge(t, VerifyAuto), newJudge(t, VerifyLocal), newJudge(t, VerifyReview)
				for _, j := range []*judge{auto, local, review} {
					c.spoil(j)
				}
				if got, err := auto.Review(t.Context(), token); err != nil || got.Local || auto.reviews.Load() != 1 {
					t.Errorf("auto: %v, %v", got, err)
				}
				if n := auto.metric(t, "token_fallbacks_total", c.reason); n != 1 {
					t.Errorf("%v fallbacks for %s", n, c.reason)
				}
				if got, err := local.Review(t.Context(), token); !errors.Is(err, ErrUnavailable) || local.reviews.Load() != 0 {
					t.Errorf("local: %v, %v", got, err)
				}
				if got, err := review.Review(t.Context(), token); err != nil || got.Local || review.api.reads.Load() != 0 {
					t.Errorf("review: %v, %v", got, err)
				}
				for j, how := range map[*judge][2]string{auto: {howReview, resultAccepted}, local: {howLocal, resultNone}, review: {howReview, resultAccepted}} {
					if n := j.metric(t, "tokens_judged_total", how[0], how[1]); n != 1 {
						t.Errorf("%v tokens judged by %v", n, how)
					}
				}
			})
		})
	}
}

func TestLocalTokensReady(t *testing.T) {
	j := newJudge(t, VerifyLocal)
	if err := j.Ready(); err == nil {
		t.Error("ready without keys")
	}
	if n := j.metric(t, "token_verification_local"); n != 0 {
		t.Errorf("local: %v", n)
	}
	if _, _, err := j.keys.find(t.Context(), "r"); err != nil {
		t.Fatal(err)
	}
	if err := j.Ready(); err != nil {
		t.Error(err)
	}
	if n := j.metric(t, "token_verification_local"); n != 1 {
		t.Errorf("local: %v", n)
	}
	j.workloads = &Workloads{window: DefaultWindow}
	if err := j.Ready(); err == nil {
		t.Error("ready without a list of pods")
	}
	if err := newJudge(t, VerifyAuto).Ready(); err != nil {
		t.Errorf("auto: %v", err)
	}
}

// However it is set up, the API server's own audience is not taken.
func TestOwnAudienceIsNotTaken(t *testing.T) {
	j := newJudge(t, VerifyAuto)
	j.audiences = append(j.audiences, testIssuer)
	if got, err := j.Review(t.Context(), sign(t, ecKey(), byEC, with(cartClaims(time.Now()), "aud", testIssuer))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v, %v", got, err)
	}
	own := sign(t, ecKey(), byEC, with(cartClaims(time.Now()), "aud", []string{"api", "k3s"}))
	if diff := cmp.Diff([]string{"api", "k3s"}, audiencesOf(own)); diff != "" {
		t.Error(diff)
	}
	for _, token := range []string{"", "abcdef.0123456789abcdef", raw(dict{"alg": "RS256"}, "x", []byte("x"))} {
		if got := audiencesOf(token); got != nil {
			t.Errorf("%q: audiences %q", token, got)
		}
	}
}

// FuzzToken sends what strangers may. Whatever comes, it proves nobody, asks the API
// server for no review, and appears in no error.
func FuzzToken(f *testing.F) {
	now := time.Now()
	good := sign(f, ecKey(), byEC, cartClaims(now))
	header, payload, signature := cut3(good)
	for _, seed := range []string{
		"", ".", "..", "...", header + "." + payload + ".", raw(dict{"alg": "none", "kid": "e"}, cartClaims(now), nil),
		raw(dict{"alg": "ES256", "kid": "e", "b64": false, "crit": []string{"b64"}}, dict{}, []byte(signature)),
		raw(dict{"alg": "ES256", "kid": "e", "jwk": dict{"kty": "EC", "crv": "P-256"}}, dict{}, make([]byte, 64)),
		raw(strings.Repeat("[", 1000), dict{}, nil), `{"payload":"","signatures":[]}`,
	} {
		f.Add(seed)
	}
	j := newJudge(f, VerifyAuto)
	f.Fuzz(func(t *testing.T, token string) {
		caller, err := j.Review(t.Context(), token)
		if !errors.Is(err, ErrUnauthenticated) || caller != (TokenCaller{}) {
			t.Fatalf("%v, %v", caller, err)
		}
		if len(err.Error()) > 300 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		if n := j.reviews.Load(); n != 0 {
			t.Errorf("%d reviews", n)
		}
	})
}

// BenchmarkLocalToken is what a token costs that is verified here, signature, claims,
// account and pod.
func BenchmarkLocalToken(b *testing.B) {
	for name, c := range map[string]struct {
		key    any
		header dict
	}{"RS256": {rsaKey(), byRSA}, "ES256": {ecKey(), byEC}} {
		b.Run(name, func(b *testing.B) {
			j := newJudge(b, VerifyLocal)
			token := sign(b, c.key, c.header, cartClaims(time.Now()))
			b.ReportAllocs()
			for b.Loop() {
				j.view.pods.proof.read(reading{"10", time.Now()}) // whatever the time it takes
				j.view.accounts.proof.read(reading{"10", time.Now()})
				if _, err := j.Review(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
