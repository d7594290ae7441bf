package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/serve"
)

// scopeNone is the scope of Secrets without any, but for those that the mesh's own
// servers serve with.
const scopeNone = "none"

// secretSettings say who gets a Secret, and how they are kept.
type secretSettings struct {
	scope         ca.Scope
	namespaces    []string // the only ones whose Secrets this process may touch; none: all
	workers       int
	rate          float64
	scrubRate     float64
	scrubInterval time.Duration
	legacyRoots   bool
}

// register adds the flags of Secrets. read, after the flags are parsed, checks them
// and puts what the authority has to know into its options.
func (s *secretSettings) register(f *pflag.FlagSet) (read func(*ca.Options) []error) {
	var scope, namespaces, accounts, key string
	var all, serverNames bool
	var names []string
	var ratio float64
	var least time.Duration
	f.StringVar(&scope, "secret-scope", "injected", "namespaces whose service accounts get Secrets: injected (those with injection), all, or none but that of the mesh's servers")
	f.StringVar(&namespaces, "secret-namespace-selector", "", "instead: namespaces with these labels")
	f.StringVar(&accounts, "secret-account-selector", "", "of these namespaces' service accounts, only those with these labels")
	f.BoolVar(&s.scope.Used, "secret-only-used", false, "of these, only those that a pod runs as; watches all pods")
	f.StringSliceVar(&s.namespaces, "secret-namespaces", nil, "the only namespaces whose Secrets are watched and written, besides the own one, where RBAC grants no others")
	f.StringVar(&key, "secret-key", "p256", "keys of certificates in Secrets: p256 (PKCS#8) or rsa2048 (PKCS#1)")
	f.Float64Var(&ratio, "workload-cert-grace-period-ratio", ca.DefaultSecretGrace, "share of its lifetime that is left when a Secret is renewed, 0.1 to 0.9")
	f.DurationVar(&least, "workload-cert-min-grace-period", ca.DefaultSecretMinGrace, "time that is left at least, if it is no more than half of the lifetime")
	f.StringSliceVar(&names, "custom-dns-names", nil, "DNS names in the Secrets of accounts, as ACCOUNT.NAMESPACE:DOMAIN, comma separated")
	f.BoolVar(&serverNames, "custom-dns-names-of-servers", false, "let custom-dns-names name the mesh's own servers: whoever holds such a Secret can pose as one")
	f.IntVar(&s.workers, "secret-workers", 4, "Secrets that are worked on at a time")
	f.Float64Var(&s.rate, "secret-rate", cluster.DefaultSecretRate, "Secrets that are read or written in a second")
	f.Float64Var(&s.scrubRate, "secret-scrub-rate", cluster.DefaultScrubRate, "Secrets whose content is checked in a second, in passing over all of them")
	f.DurationVar(&s.scrubInterval, "secret-scrub-interval", cluster.DefaultScrubInterval, "time between two such passes")
	f.BoolVar(&s.legacyRoots, "legacy-root-config-map", false, "also write the roots into ConfigMap "+mesh.LegacyRootConfigMap+", for node agents of Istio 1.1")
	f.BoolVar(&all, "secrets-in-all-namespaces", false, "earlier spelling of secret-scope=all")
	return func(o *ca.Options) (errs []error) {
		wrong := func(flag string, err error) {
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", flag, err))
			}
		}
		if scope != "injected" && scope != "all" && scope != scopeNone {
			wrong("secret-scope", fmt.Errorf("%q: injected, all or none", scope))
		}
		s.scope.All = scope == "all" || all
		var err error
		s.scope.Namespaces, err = selector(namespaces)
		wrong("secret-namespace-selector", err)
		if namespaces != "" && (s.scope.All || scope == scopeNone) {
			wrong("secret-namespace-selector", errors.New("contradicts a secret-scope of all or none"))
		}
		if scope == scopeNone {
			s.scope.Namespaces = labels.Nothing()
		}
		s.scope.Accounts, err = selector(accounts)
		wrong("secret-account-selector", err)
		s.scope.System = o.SystemNamespace
		for _, ns := range s.namespaces {
			if problems := validation.IsDNS1123Label(ns); len(problems) > 0 {
				wrong("secret-namespaces", fmt.Errorf("%q: %s", ns, strings.Join(problems, "; ")))
			}
		}
		if len(s.namespaces) > 0 && !slices.Contains(s.namespaces, o.SystemNamespace) {
			s.namespaces = append(s.namespaces, o.SystemNamespace)
		}
		o.SecretKey, err = ca.ParseSecretKey(key)
		wrong("secret-key", err)
		if ratio < 0.1 || ratio > 0.9 {
			wrong("workload-cert-grace-period-ratio", fmt.Errorf("%v: not 0.1 to 0.9", ratio))
		}
		if least < 0 {
			wrong("workload-cert-min-grace-period", fmt.Errorf("%v: less than nothing", least))
		}
		o.SecretGrace, o.SecretMinGrace = ratio, max(least, 1) // 0 is no default here
		o.DNSNames, err = ca.ParseDNSNames(names, serverNames)
		wrong("custom-dns-names", err)
		if s.workers < 1 || s.workers > 64 {
			wrong("secret-workers", fmt.Errorf("%d: not 1 to 64", s.workers))
		}
		if s.rate < 1 {
			wrong("secret-rate", fmt.Errorf("%v: less than 1 in a second", s.rate))
		}
		if s.scrubRate < 1 {
			wrong("secret-scrub-rate", fmt.Errorf("%v: less than 1 in a second", s.scrubRate))
		}
		if s.scrubInterval < time.Minute {
			wrong("secret-scrub-interval", fmt.Errorf("%v: less than a minute", s.scrubInterval))
		}
		return errs
	}
}

// selector reads a selector of labels, nil where there is none.
func selector(text string) (labels.Selector, error) {
	if text == "" {
		return nil, nil
	}
	return labels.Parse(text)
}

// leader is what is done by the one replica that holds the lease.
type leader struct {
	api       *cluster.API
	authority *ca.Authority
	tend      func(context.Context) error // the CA itself; nil: nobody does
	warn      func(context.Context) error // of what becomes of it; nil: nobody does
	settings  settings
	log       *slog.Logger
	metrics   prometheus.Registerer

	secrets, roots, legacy word // the authority has changed
	leading                prometheus.Gauge
}

func newLeader(l leader) *leader {
	l.secrets, l.roots, l.legacy = newWord(), newWord(), newWord()
	l.leading = newLeading(l.metrics)
	return &l
}

// again has all that hangs from the authority looked at at once.
func (l *leader) again() {
	l.secrets.tell()
	l.roots.tell()
	l.legacy.tell()
}

// run waits for the lease and keeps Secrets and ConfigMaps while this replica holds it.
func (l *leader) run(ctx context.Context) error {
	lease := cluster.Lease{Namespace: l.settings.namespace, Name: mesh.CitadelLease, Identity: l.settings.pod, Log: l.log}
	return l.api.Lead(ctx, lease, l.keep)
}

func (l *leader) keep(ctx context.Context) error {
	l.leading.Set(1)
	defer l.leading.Set(0)
	s := l.settings.secrets
	parts := serve.Parts{
		"secrets": l.api.KeepSecrets(cluster.SecretKeeper{
			InScope: func(ns *corev1.Namespace, a cluster.Account) bool { return s.scope.Includes(ns, a.Labels, a.Used) },
			Labels:  s.scope.Accounts != nil, Used: s.scope.Used, Namespaces: s.namespaces,
			Check: l.authority.CheckSecret, Make: l.authority.NewSecret, Failure: failure,
			Basis: func(account mesh.ServiceAccount) cluster.Basis { return cluster.Basis(l.authority.Basis(account)) },
			Again: l.secrets, Workers: s.workers, Rate: s.rate, ScrubRate: s.scrubRate, ScrubInterval: s.scrubInterval,
			Log: l.log, Metrics: l.metrics,
		}),
		"config maps": l.api.KeepConfigMaps(cluster.ConfigMapKeeper{
			Desired: l.authority.RootConfigMap, Again: l.roots, Log: l.log, Metrics: l.metrics,
		}),
	}
	if l.tend != nil {
		parts["CA"] = l.tend
	}
	if l.warn != nil {
		parts["CA warnings"] = l.warn
	}
	if s.legacyRoots {
		parts["legacy config map"] = l.api.KeepConfigMaps(cluster.ConfigMapKeeper{
			Name: mesh.LegacyRootConfigMap, Namespace: l.settings.namespace,
			Desired: l.authority.LegacyRootConfigMap, Again: l.legacy, Log: l.log, Metrics: l.metrics,
		})
	}
	return serve.All(ctx, parts)
}

// failure sorts an error of [ca.Authority.NewSecret].
func failure(err error) cluster.Failure {
	switch ca.RuleOf(err) {
	case ca.RuleIssuer, ca.RuleRecord, ca.RuleRevocations:
		return cluster.NotReady
	case ca.RuleCSR:
		return cluster.NoRequest
	case ca.RuleRevoked:
		return cluster.NoFailure
	}
	return cluster.NotSigned
}

// word is told to one listener, who may be late: several at a time are one.
type word chan struct{}

func newWord() word { return make(word, 1) }

func (w word) tell() {
	select {
	case w <- struct{}{}:
	default:
	}
}
