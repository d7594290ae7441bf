// Package ca is the certificate authority of a mesh: it signs certificates that
// name callers by their SPIFFE ID, and says what the Secrets and ConfigMaps that
// carry certificates and roots should hold.
//
// It is cut by trust. A [Request] is what remains of a stranger's CSR once its
// size, syntax, key and names are acceptable. The issuer turns a request and a
// proven identity into a certificate: it takes nothing of the CSR but the public
// key, fills in cfssl's profile, signs, parses the result again and compares it field by field
// before anybody sees it. [Authority] holds the issuer in use and lets it be
// replaced as one value; what it is made from is [Material]: a root of our own with an
// intermediate below it, or a CA that the operator plugs in. Its certify is the one way to
// a certificate, for callers and Secrets alike, and there the revoked are stopped and the
// record is written. [Service] proves callers, by tokens or by certificates that were made
// here, decides for whom they may ask, speaks Istio's two CSR protocols and maps errors to
// what a client may know. [Gate] says whose turn it is, and [Revocations] who gets nothing.
//
// The package refuses to copy names, usages or extensions from a CSR, to let a
// certificate outlive its issuer, to sign for weak or huge keys, to hand out what is not
// recorded, and to act for one identity on behalf of another, but for node proxies that the
// operator names, and pods of their own node. It has no client of the API server: what it
// decides about Secrets and ConfigMaps are plain values for others to apply.
//
// Start reading at [Authority], then request.go, issuer.go, core.go, service.go and what it
// calls: authenticate.go with origin.go, impersonate.go, gate.go, refusal.go. rule.go names
// every rule. What signs comes from material.go, and what it reads: root.go, intermediate.go,
// plugged.go. What the leader writes is in secret.go and scope.go.
package ca

import (
	"errors"
	"fmt"
	"time"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Defaults of [Options] and [RootOptions], as Istio has them, and of [IntermediateOptions].
const (
	DefaultTTL       = 24 * time.Hour
	DefaultMaxTTL    = 90 * 24 * time.Hour
	DefaultSecretTTL = 90 * 24 * time.Hour
	DefaultRootTTL   = 10 * 365 * 24 * time.Hour

	// DefaultIntermediateTTL lets the root key rest for eight months at a time.
	DefaultIntermediateTTL = 365 * 24 * time.Hour

	DefaultSecretGrace    = 0.5
	DefaultSecretMinGrace = 10 * time.Minute
)

// skew is how far certificates begin in the past, so that a node whose clock is
// late accepts them at once.
const skew = 2 * time.Minute

// minLifetime is the least that must be left of the issuer for signing anything
// that was to live longer: clients renew at half-life, and would do nothing else.
const minLifetime = 10 * time.Minute

// Options are the settings of an [Authority]. Zero values mean defaults.
type Options struct {
	TrustDomain     identity.TrustDomain // cluster.local
	DefaultTTL      time.Duration        // of a CSR that asks for none: [DefaultTTL]
	MaxTTL          time.Duration        // that a CSR may ask for: [DefaultMaxTTL]
	SecretTTL       time.Duration        // of certificates in Secrets: [DefaultSecretTTL]
	SystemNamespace string               // where the servers run: istio-system
	ClusterDomain   string               // DNS suffix of Services: cluster.local

	SecretKey      SecretKey     // of certificates in Secrets: P-256
	SecretGrace    float64       // share of its life for which a Secret is left to be renewed: [DefaultSecretGrace]
	SecretMinGrace time.Duration // that grace's least, but no more than half a life: [DefaultSecretMinGrace]
	DNSNames       DNSNames      // of accounts besides their SPIFFE ID

	Recorder    Recorder     // of all that is issued; nothing is recorded, which is for tests
	Revocations *Revocations // nobody is revoked
}

// Validate reports every setting that contradicts another one.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	for _, d := range []struct {
		name string
		ttl  time.Duration
	}{
		{"certificate lifetime", o.DefaultTTL},
		{"longest certificate lifetime", o.MaxTTL},
		{"Secret lifetime", o.SecretTTL},
	} {
		if d.ttl < time.Minute {
			errs = append(errs, fmt.Errorf("%s %v: less than a minute", d.name, d.ttl))
		}
	}
	if o.DefaultTTL > o.MaxTTL {
		errs = append(errs, fmt.Errorf("certificate lifetime %v: more than the longest one, %v", o.DefaultTTL, o.MaxTTL))
	}
	if o.SecretGrace < 0.1 || o.SecretGrace > 0.9 { // a tenth more or less, and there still are two parts
		errs = append(errs, fmt.Errorf("grace period of Secrets: %v of their life, not 0.1 to 0.9", o.SecretGrace))
	}
	if o.SecretMinGrace < 0 {
		errs = append(errs, fmt.Errorf("least grace period of Secrets %v: less than nothing", o.SecretMinGrace))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.TrustDomain.IsZero() {
		o.TrustDomain = identity.DefaultTrustDomain
	}
	if o.DefaultTTL == 0 {
		o.DefaultTTL = DefaultTTL
	}
	if o.MaxTTL == 0 {
		o.MaxTTL = DefaultMaxTTL
	}
	if o.SecretTTL == 0 {
		o.SecretTTL = DefaultSecretTTL
	}
	if o.SecretGrace == 0 {
		o.SecretGrace = DefaultSecretGrace
	}
	if o.SecretMinGrace == 0 {
		o.SecretMinGrace = DefaultSecretMinGrace
	}
	if o.SystemNamespace == "" {
		o.SystemNamespace = mesh.SystemNamespace
	}
	if o.ClusterDomain == "" {
		o.ClusterDomain = mesh.DefaultClusterDomain
	}
	return o
}
