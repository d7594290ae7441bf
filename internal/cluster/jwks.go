package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/garrison-mesh/garrison/internal/elapsed"
)

// Where API servers publish the issuer and the keys of the tokens that they sign.
const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/openid/v1/jwks"
)

const (
	keysEvery   = 5 * time.Minute  // how often the keys are read
	keysFor     = 15 * time.Minute // keys that could not be read for longer are not believed
	keysGap     = 10 * time.Second // between two readings, whatever strangers ask for
	keysTimeout = 2 * time.Second
)

// algorithms are those that API servers sign with. Each key allows one of them.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

// tokenKey is a public key and the one algorithm that is taken from it.
type tokenKey struct {
	public    any
	algorithm jose.SignatureAlgorithm
}

// keySet is the keys as they were read at one time.
type keySet struct {
	issuer string
	keys   map[string]tokenKey // by kid
	read   time.Time
}

// tokenKeys are the keys that the API server signs tokens with, by its own word.
type tokenKeys struct {
	get     func(ctx context.Context, path string) ([]byte, error)
	log     *slog.Logger
	current atomic.Pointer[keySet]

	turn    chan struct{} // held by the one that reads
	attempt time.Time     // the last; guarded by turn
	failure error         // of that attempt
}

func newTokenKeys(get func(context.Context, string) ([]byte, error), log *slog.Logger) *tokenKeys {
	return &tokenKeys{get: get, log: log, turn: make(chan struct{}, 1)}
}

// usable returns the keys, or why there are none to be believed.
func (k *tokenKeys) usable() (*keySet, error) {
	set := k.current.Load()
	if set == nil {
		return nil, errors.New("token keys not read yet")
	}
	if age := elapsed.Since(set.read); age > keysFor {
		return nil, fmt.Errorf("token keys read %v ago, at most %v", age.Round(time.Second), keysFor)
	}
	return set, nil
}

// find returns the key of that name and the issuer whose it is. Keys are read anew
// for one that is not known, and where they are too old, but not more often than every
// [keysGap]. Errors are [ErrUnauthenticated] where the keys are known and hold none of that
// name.
func (k *tokenKeys) find(ctx context.Context, kid string) (tokenKey, string, error) {
	known := k.current.Load()
	set, err := k.usable()
	if err == nil {
		if found, ok := set.keys[kid]; ok {
			return found, set.issuer, nil
		}
	}
	failure := k.refresh(ctx, known)
	if set, err = k.usable(); err != nil {
		return tokenKey{}, "", errors.Join(err, failure)
	}
	if found, ok := set.keys[kid]; ok {
		return found, set.issuer, nil
	}
	if failure != nil { // it may be a key that we could not learn of
		return tokenKey{}, "", failure
	}
	return tokenKey{}, "", fmt.Errorf("%w: token signed by a key that is not the API server's", ErrUnauthenticated)
}

// refresh reads the keys, unless that has happened since the caller saw known, or
// was tried a moment ago. It returns why the last try failed. Callers that come
// together wait for one of them; who has gone by then does not end it for the others.
func (k *tokenKeys) refresh(ctx context.Context, known *keySet) error {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if now := time.Now(); k.current.Load() == known && (k.attempt.IsZero() || elapsed.Between(k.attempt, now) >= keysGap) {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTimeout)
		defer cancel()
		set, err := k.load(within, now)
		k.attempt, k.failure = now, err
		if err == nil {
			k.current.Store(set)
		}
	}
	return k.failure
}

func (k *tokenKeys) load(ctx context.Context, now time.Time) (*keySet, error) {
	about, err := k.get(ctx, discoveryPath)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", discoveryPath, err)
	}
	issuer, err := parseIssuer(about)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", discoveryPath, err)
	}
	data, err := k.get(ctx, keysPath)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keysPath, err)
	}
	keys, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keysPath, err)
	}
	return &keySet{issuer: issuer, keys: keys, read: now}, nil
}

// run keeps the keys young until ctx ends, and says when they become known, change,
// or cannot be read.
func (k *tokenKeys) run(ctx context.Context) {
	var told *keySet
	var complaint string
	for {
		before := k.current.Load()
		err := k.refresh(ctx, before)
		if ctx.Err() != nil {
			return
		}
		pause := wait.Jitter(keysEvery, 0.2)
		if set := k.current.Load(); err != nil {
			if err.Error() != complaint {
				complaint = err.Error()
				k.log.WarnContext(ctx, "token keys not read", "err", err)
			}
			pause = keysGap
		} else {
			if told == nil || complaint != "" || told.issuer != set.issuer || !sameNames(told, set) {
				k.log.InfoContext(ctx, "took token keys", "issuer", set.issuer, "keys", len(set.keys))
			}
			told, complaint = set, ""
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func sameNames(a, b *keySet) bool {
	for kid := range b.keys {
		if _, ok := a.keys[kid]; !ok {
			return false
		}
	}
	return len(a.keys) == len(b.keys)
}

// parseIssuer reads the issuer out of an OpenID configuration. What else stands
// there, such as where the keys are for others, is not looked at.
func parseIssuer(data []byte) (string, error) {
	var about struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(data, &about); err != nil {
		return "", err
	}
	if about.Issuer == "" {
		return "", errors.New("no issuer")
	}
	return about.Issuer, nil
}

// parseKeys reads a key set. Keys of kinds that API servers do not sign with are
// passed over; a set without any other is an error.
func parseKeys(data []byte) (map[string]tokenKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, err
	}
	keys := map[string]tokenKey{}
	for _, raw := range set.Keys {
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(raw); err != nil || jwk.KeyID == "" || !jwk.IsPublic() || jwk.Use != "" && jwk.Use != "sig" {
			continue
		}
		algorithm := algorithmOf(jwk.Key)
		if algorithm == "" || jwk.Algorithm != "" && jwk.Algorithm != string(algorithm) {
			continue
		}
		keys[jwk.KeyID] = tokenKey{jwk.Key, algorithm}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("none of %d keys is one of %v with a name", len(set.Keys), algorithms)
	}
	return keys, nil
}

// algorithmOf returns the algorithm that API servers use a key for, "" for a key
// that is none of theirs.
func algorithmOf(public any) jose.SignatureAlgorithm {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= 2048 {
			return jose.RS256
		}
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return jose.ES256
		case elliptic.P384():
			return jose.ES384
		case elliptic.P521():
			return jose.ES512
		}
	}
	return ""
}
