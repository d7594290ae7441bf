package main

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/identity"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "citadel.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestParseDefaults(t *testing.T) {
	s, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.listen != ":8060" || s.admin != ":15014" || !slices.Equal(s.audiences, []string{"istio-ca"}) || s.namespace != "istio-system" ||
		s.authority.TrustDomain.String() != "cluster.local" || s.authority.DefaultTTL != 24*time.Hour ||
		s.verification != cluster.VerifyAuto || s.revocationWindow != 30*time.Second || s.level != slog.LevelInfo ||
		s.issuanceLog != toStdout || !s.syncLog {
		t.Errorf("%+v", s)
	}
	if err := s.authority.Validate(); err != nil {
		t.Error(err)
	}
}

func TestParsePrecedence(t *testing.T) {
	config := file(t, "trust-domain: from.file\ntoken-audience: from-file\nworkload-cert-ttl: 1h\nsecrets-in-all-namespaces: true\n")
	t.Setenv("GARRISON_TRUST_DOMAIN", "from.environment")
	t.Setenv("GARRISON_TOKEN_AUDIENCE", "from-environment")
	t.Setenv("POD_NAMESPACE", "mesh")
	t.Setenv("POD_NAME", "citadel-1")
	s, err := parse([]string{"--config", config, "--trust-domain", "from.flag"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.authority.TrustDomain.String(); got != "from.flag" {
		t.Errorf("trust domain %s, the flag comes first", got)
	}
	if !slices.Equal(s.audiences, []string{"from-environment"}) {
		t.Errorf("audiences %q, the environment comes before the file", s.audiences)
	}
	if s.authority.DefaultTTL != time.Hour || !s.secrets.scope.All {
		t.Errorf("%v, %t: the file comes before defaults", s.authority.DefaultTTL, s.secrets.scope.All)
	}
	if s.caNamespace != "mesh" || s.namespace != "mesh" || s.authority.SystemNamespace != "mesh" || s.pod != "citadel-1" {
		t.Errorf("namespace %s, pod %s", s.namespace, s.pod)
	}
	t.Setenv("GARRISON_NAMESPACE", "other")
	t.Setenv("GARRISON_CONFIG", config)
	if s, err = parse(nil, io.Discard); err != nil || s.namespace != "other" || !s.secrets.scope.All {
		t.Errorf("%+v, %v", s, err)
	}
}

// Several audiences are words after commas, flags again, or a list in the file.
func TestParseAudiences(t *testing.T) {
	want := []string{"istio-ca", "cluster.local"}
	for name, args := range map[string][]string{
		"commas": {"--token-audience=istio-ca,cluster.local"},
		"again":  {"--token-audience=istio-ca", "--token-audience=cluster.local"},
		"list":   {"--config", file(t, "token-audience: [istio-ca, cluster.local]\n")},
		"words":  {"--config", file(t, "token-audience: istio-ca,cluster.local\n")},
	} {
		s, err := parse(args, io.Discard)
		if err != nil || !slices.Equal(s.audiences, want) {
			t.Errorf("%s: %q, %v", name, s.audiences, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	cases := map[string]struct {
		args []string
		file string
		want []string // every one, at once
	}{
		"contradictions": {[]string{"--workload-cert-ttl=3000h", "--secret-ttl=50000h", "--log-level=loud", "--trust-domain=A", "extra"}, "", []string{
			"workload-cert-ttl 3000h0m0s: more than max-workload-cert-ttl 2160h0m0s",
			"secret-ttl 50000h0m0s: more than half of root-ttl 87600h0m0s",
			`log-level "loud"`, "trust-domain: ", `unexpected arguments ["extra"]`,
		}},
		"short root":         {[]string{"--root-ttl=1000h"}, "", []string{"max-workload-cert-ttl 2160h0m0s: more than half of root-ttl 1000h0m0s", "secret-ttl 2160h0m0s: more than half"}},
		"no lifetime":        {[]string{"--workload-cert-ttl=0", "--secret-ttl=-1h"}, "", []string{"workload-cert-ttl 0s: less than a minute", "secret-ttl -1h0m0s: less than a minute"}},
		"empty":              {[]string{"--token-audience=", "--namespace=", "--issuance-log="}, "", []string{"token-audience: empty", "namespace: empty", "issuance-log: empty"}},
		"short intermediate": {[]string{"--intermediate-ttl=2400h"}, "", []string{"secret-ttl 2160h0m0s: more than a third of intermediate-ttl 2400h0m0s"}},
		"kinds":              {[]string{"--ca=none", "--ca-key=dsa"}, "", []string{`ca "none": auto, self-signed or plugged`, `ca-key "dsa": one of p256, p384, rsa2048, rsa4096`}},
		"half of a CA":       {[]string{"--signing-cert=/a", "--signing-key=/b"}, "", []string{"signing-cert, signing-key, cert-chain and root-cert: all of them or none"}},
		"two CAs": {[]string{"--ca=self-signed", "--ca-dir=/a", "--signing-cert=/a"}, "", []string{
			"ca-dir: excludes signing-cert", "ca self-signed: excludes the files",
		}},
		"secrets": {[]string{
			"--secret-scope=some", "--secret-account-selector=a b", "--secret-namespaces=A", "--secret-key=rsa1024", "--workload-cert-grace-period-ratio=0.95",
			"--workload-cert-min-grace-period=-1s", "--custom-dns-names=cart:x", "--secret-workers=0", "--secret-rate=0", "--secret-scrub-rate=0.5", "--secret-scrub-interval=1s",
		}, "", []string{
			`secret-scope: "some"`, "secret-account-selector: ", `secret-namespaces: "A"`, `secret-key: "rsa1024"`, "workload-cert-grace-period-ratio: 0.95",
			"workload-cert-min-grace-period: -1s", `custom-dns-names: "cart:x"`, "secret-workers: 0", "secret-rate: 0", "secret-scrub-rate: 0.5", "secret-scrub-interval: 1s",
		}},
		"scopes that contradict": {[]string{"--secret-scope=all", "--secret-namespace-selector=a=b"}, "", []string{"secret-namespace-selector: contradicts"}},
		"server's name":          {[]string{"--custom-dns-names=cart.shop:istiod.istio-system.svc"}, "", []string{"custom-dns-names: "}},
		"no limit":               {[]string{"--max-rate=0", "--caller-burst=-1", "--source-rate=NaN", "--max-signing=-1"}, "", []string{"max-rate 0: must be more than 0", "caller-burst -1: must be", "source-rate NaN: must be", "max-signing -1: less than 0"}},
		"empty audience":         {[]string{"--token-audience=a,"}, "", []string{"token-audience: empty"}},
		"tokens":                 {[]string{"--token-verification=never", "--revocation-window=5s"}, "", []string{`token-verification "never": auto, local or review`, "revocation-window 5s: less than 12s"}},
		"unknown flag":           {[]string{"--nonsense"}, "", []string{"nonsense"}},
		"file not there":         {[]string{"--config=/nowhere.yaml"}, "", []string{"config /nowhere.yaml"}},
		"unknown key":            {nil, "trust-domian: x\n", []string{`unknown key "trust-domian"`}},
		"wrong type":             {nil, "secret-ttl: long\nprofile: maybe\n", []string{"secret-ttl: ", "profile: "}},
		"list for a word":        {nil, "listen: [a, b]\n", []string{"listen: "}},
		"not YAML":               {nil, "\t{", []string{"config "}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.file != "" {
				c.args = append(c.args, "--config", file(t, c.file))
			}
			_, err := parse(c.args, io.Discard)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %s", err, want)
				}
			}
		})
	}
}

// The settings that are installed leave the trust domain to its default, which nobody
// chose; with the line that they have for it, it was.
func TestParseInstalledSettings(t *testing.T) {
	installed, err := os.ReadFile("../../manifests/base/settings/citadel.yaml")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Replace(string(installed), "\n# trust-domain: ", "\ntrust-domain: ", 1)
	for n, text := range []string{string(installed), line} {
		s, err := parse([]string{"--config", file(t, text)}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if chosen := n == 1; s.keys.domainChosen != chosen || s.authority.TrustDomain != identity.DefaultTrustDomain {
			t.Errorf("trust domain %s, chosen %t, want %t, of\n%s", s.authority.TrustDomain, s.keys.domainChosen, chosen, text)
		}
	}
}

// A trust domain that stands in the file was chosen; the default was not.
func TestParseKeys(t *testing.T) {
	s, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if k := s.keys; k.domainChosen || !k.intermediate || k.constrain || k.fromFiles() || k.mode != ca.Auto || k.intermediateTTL != 365*24*time.Hour {
		t.Errorf("%+v", k)
	}
	config := file(t, "trust-domain: cluster.local\nca: plugged\nca-key: rsa4096\nca-dir: /etc/cacerts\nintermediate: false\n")
	if s, err = parse([]string{"--config", config, "--secret-ttl=4000h", "--max-workload-cert-ttl=4000h"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if k := s.keys; !k.domainChosen || k.intermediate || k.dir != "/etc/cacerts" || k.mode != ca.Plugged || k.kind.String() != "rsa4096" {
		t.Errorf("%+v", k)
	}
}

func TestParseAsksForNothingElse(t *testing.T) {
	if _, err := parse([]string{"--help"}, io.Discard); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
	if _, err := parse([]string{"--version", "--log-level=loud"}, io.Discard); !errors.Is(err, errVersion) {
		t.Errorf("--version: %v", err)
	}
	t.Setenv("GARRISON_VERSION", "v1.2.3") // is no setting
	if _, err := parse(nil, io.Discard); err != nil {
		t.Errorf("GARRISON_VERSION: %v", err)
	}
	if _, err := parse([]string{"--config", file(t, "version: true\nconfig: other.yaml\n")}, io.Discard); err == nil ||
		!strings.Contains(err.Error(), `unknown key "version"`) || !strings.Contains(err.Error(), `unknown key "config"`) {
		t.Errorf("no settings of a file: %v", err)
	}
}

func TestParseSecrets(t *testing.T) {
	s, err := parse([]string{
		"--secret-namespace-selector=team=a", "--secret-account-selector=mesh", "--secret-only-used", "--secret-namespaces=a,b", "--secret-key=rsa2048",
		"--custom-dns-names=cart.shop:cart.example.com,istio-pilot.istio-system:istiod.istio-system.svc", "--custom-dns-names-of-servers",
		"--workload-cert-min-grace-period=0s",
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	scope := s.secrets.scope
	if scope.All || !scope.Used || scope.Namespaces.String() != "team=a" || scope.Accounts.String() != "mesh" || scope.System != "istio-system" {
		t.Errorf("scope %+v", scope)
	}
	if diff := cmp.Diff([]string{"a", "b", "istio-system"}, s.secrets.namespaces); diff != "" {
		t.Errorf("namespaces (-want +got): %s", diff)
	}
	if s.authority.SecretKey != ca.RSA2048 || s.authority.Validate() != nil {
		t.Errorf("authority %+v", s.authority)
	}
}
