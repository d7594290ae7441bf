package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cast"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// settings are what this process was told, checked.
type settings struct {
	kubeconfig string
	namespace  string // its own
	// caNamespace is where the Secrets of the CA are, the own one where none was named.
	caNamespace string
	pod         string // names this replica in the lease
	listen      string
	admin       string
	audiences   []string
	rootTTL     time.Duration
	secrets     secretSettings
	profile     bool
	level       slog.Level
	authority   ca.Options
	issuanceLog string // "stdout" or a directory
	syncLog     bool
	keys        keySettings
	limits

	verification     cluster.Verification
	revocationWindow time.Duration

	callers
}

// errVersion is the answer to --version.
var errVersion = errors.New("version asked for")

// parse reads the settings: a flag beats the environment (GARRISON_ and the
// flag's name), which beats the file that --config names. Its error holds every
// complaint, a line each.
func parse(args []string, usage io.Writer) (settings, error) {
	var s settings
	var config, level, trustDomain, verification string
	var version bool
	hostname, _ := os.Hostname() // a default only; its absence is caught below
	f := pflag.NewFlagSet("citadel", pflag.ContinueOnError)
	f.SetOutput(usage)
	f.SortFlags = false
	f.StringVar(&s.listen, "listen", fmt.Sprintf(":%d", mesh.CSRPort), "address of the certificate service (gRPC over TLS)")
	f.StringVar(&s.admin, "admin", fmt.Sprintf(":%d", mesh.MonitorPort), "address of health and metrics (plain HTTP)")
	f.StringVar(&trustDomain, "trust-domain", identity.DefaultTrustDomain.String(), "first part of every SPIFFE ID; has to be said for a plugged-in CA")
	f.StringVar(&s.authority.ClusterDomain, "cluster-domain", mesh.DefaultClusterDomain, "DNS suffix of the cluster's Services")
	f.StringSliceVar(&s.audiences, "token-audience", []string{mesh.TokenAudience},
		"audiences, one of which service account tokens must be made for; never the API server's own")
	f.StringVar(&verification, "token-verification", string(cluster.VerifyAuto), "local: verify tokens with the API server's keys and a watch of pods; "+
		"review: ask it about each; auto: local, and review while that cannot be done")
	f.DurationVar(&s.revocationWindow, "revocation-window", cluster.DefaultWindow,
		"how long a deleted pod or service account, or an identity that is revoked, may go on to be certified; with no news for longer nobody is")
	s.accountFlags(f)
	f.DurationVar(&s.authority.DefaultTTL, "workload-cert-ttl", ca.DefaultTTL, "lifetime of certificates whose request names none")
	f.DurationVar(&s.authority.MaxTTL, "max-workload-cert-ttl", ca.DefaultMaxTTL, "longest lifetime that a request may name")
	f.DurationVar(&s.authority.SecretTTL, "secret-ttl", ca.DefaultSecretTTL, "lifetime of certificates in Secrets; they are renewed at half of it")
	f.DurationVar(&s.rootTTL, "root-ttl", ca.DefaultRootTTL, "lifetime of a root that is made because there is none")
	readKeys := s.keys.register(f)
	readSecrets := s.secrets.register(f)
	f.StringVar(&s.issuanceLog, "issuance-log", toStdout, "where the record of certificates and refusals goes: stdout, or a directory that outlives the process")
	f.BoolVar(&s.syncLog, "issuance-log-sync", true, "issue only what the disk has on record; for a directory")
	s.flags(f)
	f.StringVar(&s.namespace, "namespace", mesh.SystemNamespace, "namespace that this process runs in (POD_NAMESPACE)")
	f.StringVar(&s.caNamespace, "ca-namespace", "", "namespace of the CA's own Secrets; that of this process without")
	f.StringVar(&s.pod, "pod-name", hostname, "name of this replica, unlike all others (POD_NAME)")
	f.StringVar(&s.kubeconfig, "kubeconfig", "", "file that describes the cluster; the one it runs in without")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&s.profile, "profile", false, "serve /debug/pprof/ beside the metrics")
	f.StringVar(&config, "config", "", "file of settings in YAML, keys as the flags here")
	f.BoolVar(&version, "version", false, "print the version and end")
	readClassic := registerClassic(f)
	if err := f.Parse(args); err != nil {
		return settings{}, err
	}
	if version {
		return settings{}, errVersion
	}

	errs := append(readClassic(), fill(f, otherNames())...)
	if f.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected arguments %q", f.Args()))
	}
	var err error
	if s.authority.TrustDomain, err = identity.ParseTrustDomain(trustDomain); err != nil {
		errs = append(errs, fmt.Errorf("trust-domain: %w", err))
	}
	if err := s.level.UnmarshalText([]byte(level)); err != nil {
		errs = append(errs, fmt.Errorf("log-level %q: debug, info, warn or error", level))
	}
	if s.verification, err = cluster.ParseVerification(verification); err != nil {
		errs = append(errs, fmt.Errorf("token-verification %w", err))
	}
	if s.revocationWindow < cluster.MinWindow {
		errs = append(errs, fmt.Errorf("revocation-window %v: less than %v", s.revocationWindow, cluster.MinWindow))
	}
	if len(s.audiences) == 0 || slices.Contains(s.audiences, "") {
		errs = append(errs, errors.New("token-audience: empty"))
	}
	for _, required := range [][2]string{
		{"cluster-domain", s.authority.ClusterDomain},
		{"namespace", s.namespace}, {"pod-name", s.pod}, {"issuance-log", s.issuanceLog},
	} {
		if required[1] == "" {
			errs = append(errs, fmt.Errorf("%s: empty", required[0]))
		}
	}
	s.caNamespace = cmp.Or(s.caNamespace, s.namespace)
	s.authority.SystemNamespace = s.namespace
	return s, errors.Join(slices.Concat(errs, readKeys(), readSecrets(&s.authority), s.lifetimes(), s.check())...)
}

// lifetimes returns what is wrong with the lifetimes, each and together.
func (s settings) lifetimes() (errs []error) {
	o := s.authority
	for _, d := range []struct {
		flag string
		ttl  time.Duration
	}{
		{"workload-cert-ttl", o.DefaultTTL},
		{"max-workload-cert-ttl", o.MaxTTL},
		{"secret-ttl", o.SecretTTL},
		{"root-ttl", s.rootTTL},
		{"intermediate-ttl", s.keys.intermediateTTL},
	} {
		if d.ttl < time.Minute {
			errs = append(errs, fmt.Errorf("%s %v: less than a minute", d.flag, d.ttl))
		}
	}
	if o.DefaultTTL > o.MaxTTL {
		errs = append(errs, fmt.Errorf("workload-cert-ttl %v: more than max-workload-cert-ttl %v", o.DefaultTTL, o.MaxTTL))
	}
	// Otherwise certificates are cut short to the root's end for half its life, or to the
	// intermediate's before it is renewed.
	for _, d := range []struct {
		flag string
		ttl  time.Duration
	}{{"max-workload-cert-ttl", o.MaxTTL}, {"secret-ttl", o.SecretTTL}} {
		if d.ttl > s.rootTTL/2 {
			errs = append(errs, fmt.Errorf("%s %v: more than half of root-ttl %v", d.flag, d.ttl, s.rootTTL))
		}
		if s.keys.intermediate && d.ttl > s.keys.intermediateTTL/3 {
			errs = append(errs, fmt.Errorf("%s %v: more than a third of intermediate-ttl %v", d.flag, d.ttl, s.keys.intermediateTTL))
		}
	}
	return errs
}

// fill sets the flags that the command line left alone from the environment and
// the file, and returns what it could not understand. others are further names of
// environment variables, by flag.
func fill(f *pflag.FlagSet, others map[string]string) (errs []error) {
	v := viper.New()
	var known []string
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "version" || flag.Hidden {
			return // a question, not a setting; or a flag of the command line only
		}
		known = append(known, flag.Name)
		names := []string{flag.Name, "GARRISON_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))}
		if other, ok := others[flag.Name]; ok {
			names = append(names, other)
		}
		v.MustBindEnv(names...)
	})
	file := f.Lookup("config").Value.String()
	if file == "" {
		file = v.GetString("config")
	}
	if file != "" {
		v.SetConfigFile(file)
		v.SetConfigType("yaml")
		if err := v.ReadInConfig(); err != nil {
			return []error{fmt.Errorf("config %s: %w", file, err)}
		}
	}
	for _, key := range v.AllKeys() {
		if !slices.Contains(known, key) || key == "config" && v.InConfig(key) {
			errs = append(errs, fmt.Errorf("config %s: unknown key %q", file, key))
		}
	}
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed || !slices.Contains(known, flag.Name) || !v.IsSet(flag.Name) {
			return
		}
		value, err := text(v.Get(flag.Name), flag.Value)
		if err == nil {
			err = f.Set(flag.Name, value)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", flag.Name, err))
		}
	})
	return errs
}

// text returns a value of a file as a flag has it on the command line. Lists are for
// flags that take several values.
func text(value any, flag pflag.Value) (string, error) {
	if _, several := flag.(pflag.SliceValue); several {
		if list, ok := value.([]any); ok {
			words, err := cast.ToStringSliceE(list)
			return strings.Join(words, ","), err
		}
	}
	return cast.ToStringE(value)
}
