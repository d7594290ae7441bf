package cluster

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

const testIssuer = "https://kubernetes.default.svc.cluster.local"

// rsaKey is made once: it takes long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })

var ecKey = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// published is what an API server says of its tokens. It may be changed, and counts
// how often it is asked.
type published struct {
	mu     sync.Mutex
	issuer string
	keys   map[string]crypto.PublicKey
	err    error
	delay  time.Duration
	reads  atomic.Int32
}

func (p *published) get(ctx context.Context, path string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if path == discoveryPath {
		p.reads.Add(1)
	}
	if p.delay > 0 {
		select {
		case <-time.After(p.delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	if path == discoveryPath {
		return json.Marshal(map[string]any{"issuer": p.issuer, "jwks_uri": "https://elsewhere.example/keys"})
	}
	set := jose.JSONWebKeySet{}
	for kid, key := range p.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: kid, Use: "sig"})
	}
	return json.Marshal(set)
}

func (p *published) change(f func(*published)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

func publish(keys map[string]crypto.PublicKey) *published {
	return &published{issuer: testIssuer, keys: keys}
}

func TestParseKeys(t *testing.T) {
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	jwk := func(key any, kid, use, alg string) string {
		return string(must(json.Marshal(jose.JSONWebKey{Key: key, KeyID: kid, Use: use, Algorithm: alg})))
	}
	p384, p521 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	for name, c := range map[string]struct {
		keys []string
		want map[string]jose.SignatureAlgorithm // nil: an error
	}{
		"all kinds": {[]string{
			jwk(rsaKey().Public(), "r", "sig", "RS256"), jwk(ecKey().Public(), "e", "", ""), jwk(p384.Public(), "e3", "sig", "ES384"), jwk(p521.Public(), "e5", "sig", ""),
		}, map[string]jose.SignatureAlgorithm{"r": jose.RS256, "e": jose.ES256, "e3": jose.ES384, "e5": jose.ES512}},
		"others passed over": {[]string{
			jwk(rsaKey().Public(), "r", "sig", ""), jwk([]byte("0123456789abcdef0123456789abcdef"), "hmac", "sig", "HS256"), jwk(weak.Public(), "weak", "sig", ""),
			jwk(ecKey().Public(), "enc", "enc", ""), jwk(ecKey().Public(), "", "sig", ""), jwk(ecKey(), "private", "sig", ""),
			jwk(ecKey().Public(), "other", "sig", "ES384"), `{"kty":"odd"}`, `7`,
		}, map[string]jose.SignatureAlgorithm{"r": jose.RS256}},
		"none of use": {[]string{jwk(weak.Public(), "weak", "sig", "")}, nil},
		"none":        {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			raw := []json.RawMessage{}
			for _, key := range c.keys {
				raw = append(raw, json.RawMessage(key))
			}
			keys, err := parseKeys(must(json.Marshal(map[string]any{"keys": raw})))
			if (err != nil) != (c.want == nil) {
				t.Fatal(err)
			}
			var got map[string]jose.SignatureAlgorithm
			for kid, key := range keys {
				if got == nil {
					got = map[string]jose.SignatureAlgorithm{}
				}
				got[kid] = key.algorithm
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got): %s", diff)
			}
		})
	}
	if _, err := parseKeys([]byte("<html>")); err == nil {
		t.Error("took a page for keys")
	}
	for _, text := range []string{"<html>", "{}", `{"issuer":""}`, `{"issuer":7}`} {
		if _, err := parseIssuer([]byte(text)); err == nil {
			t.Errorf("took %s for a configuration", text)
		}
	}
}

// A key that is not known is asked for once, however many tokens name it and however
// many others are named after it.
func TestUnknownKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := publish(map[string]crypto.PublicKey{"old": ecKey().Public()})
		api.delay = 50 * time.Millisecond
		keys := newTokenKeys(api.get, logger(t))
		if key, issuer, err := keys.find(t.Context(), "old"); err != nil || issuer != testIssuer || key.algorithm != jose.ES256 {
			t.Fatalf("%v, %s, %v", key, issuer, err)
		}
		expect := func(want int32) {
			t.Helper()
			if got := api.reads.Load(); got != want {
				t.Fatalf("keys were read %d times, want %d", got, want)
			}
		}
		storm := func(kid string, want error) {
			t.Helper()
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					name := kid
					if kid == "" {
						name = fmt.Sprint("random", i)
					}
					if _, _, err := keys.find(t.Context(), name); !errors.Is(err, want) {
						t.Errorf("key %s: %v, want %v", name, err, want)
					}
				})
			}
			wg.Wait()
		}
		expect(1)
		storm("", ErrUnauthenticated)
		expect(1) // they were read a moment ago
		time.Sleep(keysGap)
		api.change(func(p *published) { p.keys["new"] = rsaKey().Public() })
		storm("new", nil)
		expect(2)
		storm("", ErrUnauthenticated)
		expect(2)
		time.Sleep(keysGap)
		storm("", ErrUnauthenticated)
		expect(3)

		// The first to ask leaves; the others get their answer all the same.
		time.Sleep(keysGap)
		api.change(func(p *published) { p.keys["newer"] = rsaKey().Public() })
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		go func() { _, _, _ = keys.find(ctx, "newer") }() // ends before the bubble does
		synctest.Wait()
		storm("newer", nil)
		expect(4)

		// Where the keys cannot be read nobody can say that a key is not one of them.
		time.Sleep(keysGap)
		api.change(func(p *published) { p.err = errors.New("no route") })
		if _, _, err := keys.find(t.Context(), "newest"); err == nil || errors.Is(err, ErrUnauthenticated) {
			t.Errorf("unreadable: %v", err)
		}
		if _, _, err := keys.find(t.Context(), "old"); err != nil {
			t.Errorf("a known key while keys are unreadable: %v", err)
		}
		expect(5)
		time.Sleep(keysFor)
		if _, _, err := keys.find(t.Context(), "old"); err == nil || errors.Is(err, ErrUnauthenticated) {
			t.Errorf("with outdated keys: %v", err)
		}
	})
}

// Keys that the API server takes back are dropped, and ones that it gains are known
// before anybody names them.
func TestKeysAreKeptYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := publish(map[string]crypto.PublicKey{"old": ecKey().Public()})
		api.err = errors.New("no route")
		keys := newTokenKeys(api.get, logger(t))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { // waited for below
			defer close(ended)
			keys.run(ctx)
		}()
		time.Sleep(time.Minute)
		if _, err := keys.usable(); err == nil {
			t.Error("usable before they were read")
		}
		api.change(func(p *published) { p.err = nil })
		time.Sleep(keysGap + time.Second)
		if _, err := keys.usable(); err != nil {
			t.Error(err)
		}
		api.change(func(p *published) { p.keys = map[string]crypto.PublicKey{"new": rsaKey().Public()} })
		time.Sleep(2 * keysEvery)
		set, err := keys.usable()
		if _, ok := set.keys["new"]; err != nil || !ok || len(set.keys) != 1 {
			t.Errorf("%v, %v", set, err)
		}
		cancel()
		<-ended
	})
}
