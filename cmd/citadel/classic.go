package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/garrison-mesh/garrison/internal/ca"
)

// classic is a flag of istio_ca, which was Citadel until Istio 1.4.
type classic struct {
	name    string
	boolean bool                         // true without a value
	ours    string                       // the flag that it sets, "" where there is none; of the same name, it is that flag
	take    func(string) (string, error) // its value as ours has it; nil: as it is
	idle    []string                     // values that say what is done anyway
	say     string                       // to whoever used it: what is different, or instead; Markdown
}

// classics are all of them, as they were in 1.1.
func classics() []classic {
	return []classic{
		{name: "append-dns-names", boolean: true, idle: []string{"true"}, say: "the mesh's servers always get the names that their clients dial"},
		{name: "cert-chain", ours: "cert-chain", say: "may be empty, but has to be there"},
		{name: "citadel-storage-namespace", ours: "ca-namespace"},
		{name: "custom-dns-names", ours: "custom-dns-names", say: "names of the mesh's own servers need `--custom-dns-names-of-servers`"},
		{name: "enable-profiling", boolean: true, ours: "profile", say: "served beside the metrics"},
		{name: "experimental-dual-use", boolean: true, idle: []string{"false"},
			say: "certificates have no common name: whoever reads one from them has to read the URI or DNS names"},
		{name: "grpc-host-identities", idle: []string{"istio-ca,istio-citadel", "istio-citadel,istio-ca", "istio-ca", "istio-citadel"},
			say: "the server has these two names and those of its Service; for others use `--custom-dns-names` with Citadel's own account"},
		{name: "grpc-hostname", idle: []string{"istio-ca", "istio-citadel", "citadel"}, say: "had no effect in 1.1; leave it out"},
		{name: "grpc-port", ours: "listen", take: address, say: "cannot be switched off by 0"},
		{name: "key-size", ours: "ca-key", take: rsaKey, say: "2048 and 4096; without it keys are P-256"},
		{name: "kube-config", ours: "kubeconfig"},
		{name: "listened-namespace", ours: "secret-namespaces"},
		{name: "listened-namespaces", ours: "secret-namespaces",
			say: "of these, namespaces with injection, or with `--secret-scope=all` each; variable `NAMESPACE` is not read"},
		{name: "liveness-probe-interval", say: "`/healthz` at `--admin` answers liveness probes"},
		{name: "liveness-probe-path", say: "no file is written: `/healthz` at `--admin` answers liveness probes"},
		{name: "max-workload-cert-ttl", ours: "max-workload-cert-ttl"},
		{name: "monitoring-port", ours: "admin", take: address, say: "cannot be switched off by 0"},
		{name: "org", idle: []string{""}, say: "the root's organization is the trust domain; plug in a CA (`--ca=plugged`) for another"},
		{name: "probe-check-interval", say: "`/readyz` at `--admin` answers readiness probes; what signs is tried out when it is taken over"},
		{name: "read-signing-cert-only", boolean: true, idle: []string{"false"},
			say: "replicas agree on one root without it; `--ca=plugged` makes none and ends where none is there"},
		{name: "requested-ca-cert-ttl", say: "no upstream CA is asked: plug in a certificate of that CA (`--ca=plugged`), which decides how long it lives"},
		{name: "root-cert", ours: "root-cert"},
		{name: "sds-enabled", boolean: true, idle: []string{"true"}, say: "agents are always served; a NetworkPolicy can close the port"},
		{name: "self-signed-ca", boolean: true, ours: "ca", take: selfSigned,
			say: "true is `self-signed`, false `plugged`; without either, `auto` finds out"},
		{name: "self-signed-ca-cert-ttl", ours: "root-ttl"},
		{name: "server-only", boolean: true, ours: "secret-scope", take: noSecrets, idle: []string{"false"},
			say: "true is `none`: only accounts of Citadel's own namespace get Secrets"},
		{name: "sign-ca-certs", boolean: true, idle: []string{"false"},
			say: "no caller gets the certificate of a CA; plug in intermediates that your root signed"},
		{name: "signing-cert", ours: "signing-cert"},
		{name: "signing-key", ours: "signing-key"},
		{name: "trust-domain", ours: "trust-domain", say: "holds for plugged-in CAs as well; write `.` for `@`, and `cluster.local` for nothing"},
		{name: "upstream-ca-address", idle: []string{""}, say: "no upstream CA is asked: plug in a certificate of that CA (`--ca=plugged`)"},
		{name: "workload-cert-grace-period-ratio", ours: "workload-cert-grace-period-ratio", say: "0.1 to 0.9"},
		{name: "workload-cert-min-grace-period", ours: "workload-cert-min-grace-period", say: "where it is no more than half of the lifetime"},
		{name: "workload-cert-ttl", ours: "workload-cert-ttl", say: "of certificates on request; those in Secrets have `--secret-ttl`"},
	}
}

// variable is one of istiod's environment, whose CA took over from Citadel.
type variable struct {
	name string
	ours string // the flag that it sets, "" where it is not read
	say  string // what is different, or instead; Markdown
}

func variables() []variable {
	return []variable{
		{name: "CA_TRUSTED_NODE_ACCOUNTS", ours: "trusted-node-accounts"},
		{name: "CITADEL_SELF_SIGNED_CA_CERT_TTL", ours: "root-ttl"},
		{name: "DEFAULT_WORKLOAD_CERT_TTL", ours: "workload-cert-ttl"},
		{name: "MAX_WORKLOAD_CERT_TTL", ours: "max-workload-cert-ttl"},
		{name: "ROOT_CA_DIR", ours: "ca-dir", say: "has to hold a CA: nothing is made in its stead"},
		{name: "TOKEN_AUDIENCES", ours: "token-audience"},
		{name: "AUDIENCE", say: "`--token-audience`"},
		{name: "CERT_SIGNER_DOMAIN", say: "as `EXTERNAL_CA`"},
		{name: "CITADEL_SELF_SIGNED_CA_RSA_KEY_SIZE", say: "`--ca-key=rsa2048` or `rsa4096`"},
		{name: "EXTERNAL_CA", say: "Citadel signs itself; plug in a certificate of that CA"},
		{name: "K8S_SIGNER", say: "as `EXTERNAL_CA`"},
		{name: "TOKEN_ISSUER", say: "the issuer is the one that the API server publishes"},
		{name: "USE_CACERTS_FOR_SELF_SIGNED_CA", say: "`cacerts` is for CAs that are plugged in; what Citadel makes is in `istio-ca-secret`"},
	}
}

// otherNames returns the environment's names for flags, beside GARRISON_ and the flag's.
func otherNames() map[string]string {
	names := map[string]string{"namespace": "POD_NAMESPACE", "pod-name": "POD_NAME"}
	for _, v := range variables() {
		if v.ours != "" {
			names[v.ours] = v.name
		}
	}
	return names
}

// registerClassic adds the classic flags, for the command line only: neither file nor
// environment know them, and --help does not show them. What it returns has to be
// called after parsing and before what the command line left alone is filled in: it
// sets our flags, and returns a refusal for each that cannot mean anything any more.
func registerClassic(f *pflag.FlagSet) func() []error {
	type given struct {
		classic
		value *string
	}
	var all []given
	for _, c := range classics() {
		if c.name == c.ours {
			continue
		}
		g := given{c, f.String(c.name, "", "flag of istio_ca")}
		flag := f.Lookup(c.name)
		flag.Hidden = true
		if c.boolean {
			flag.NoOptDefVal = "true"
		}
		all = append(all, g)
	}
	return func() (errs []error) {
		for _, g := range all {
			if f.Changed(g.name) {
				if err := g.apply(f, *g.value); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
				}
			}
		}
		return errs
	}
}

// apply sets our flag, or says what to do instead.
func (c classic) apply(f *pflag.FlagSet, value string) error {
	if c.boolean {
		is, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q: true or false", value)
		}
		value = strconv.FormatBool(is)
	}
	switch {
	case slices.Contains(c.idle, value):
		return nil
	case c.ours == "":
		return fmt.Errorf("%q means nothing since Citadel 1.1: %s", value, c.plain())
	case f.Changed(c.ours):
		return fmt.Errorf("%s is there as well, and means the same; leave one of them out", c.ours)
	}
	if c.take != nil {
		var err error
		if value, err = c.take(value); err != nil {
			return fmt.Errorf("%w (it is --%s now)", err, c.ours)
		}
	}
	if err := f.Set(c.ours, value); err != nil {
		return fmt.Errorf("%w (it is --%s now)", err, c.ours)
	}
	return nil
}

// plain is what there is to say without Markdown.
func (c classic) plain() string { return strings.ReplaceAll(c.say, "`", "") }

// address is a port of all addresses.
func address(value string) (string, error) {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return "", fmt.Errorf("%q: no port, 1 to 65535; it cannot be switched off", value)
	}
	return fmt.Sprintf(":%d", port), nil
}

// rsaKey is a kind of key by the size in bits that it had when all were RSA.
func rsaKey(bits string) (string, error) {
	kind, err := ca.ParseKeyKind("rsa" + bits)
	if err != nil {
		return "", fmt.Errorf("%q: 2048 or 4096 bits, or other kinds by their names", bits)
	}
	return kind.String(), nil
}

func selfSigned(value string) (string, error) {
	if value == "true" {
		return ca.SelfSigned.String(), nil
	}
	return ca.Plugged.String(), nil
}

// noSecrets is the scope of Secrets where it is true; false is among what is done anyway.
func noSecrets(string) (string, error) { return scopeNone, nil }
