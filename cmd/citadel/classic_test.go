package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/citadel.md")

// Each flag of 1.1 means what the flags of today beside it mean, or is refused with what
// to do instead.
func TestClassicFlags(t *testing.T) {
	const files = "--signing-cert=/a/b --signing-key=/a/c --cert-chain=/a/d --root-cert=/a/e "
	type row struct{ args, means, refusal string }
	cases := map[string][]row{
		"append-dns-names": {{"--append-dns-names", "", ""},
			{"--append-dns-names=false", "", `append-dns-names: "false" means nothing since Citadel 1.1: the mesh's servers always`}},
		"cert-chain": {{files, files, ""}, {"--cert-chain=/a", "", "all of them or none"}},
		"citadel-storage-namespace": {{"--citadel-storage-namespace=keys", "--ca-namespace=keys", ""},
			{"--citadel-storage-namespace=keys --ca-namespace=keys", "", "leave one of them out"}},
		"custom-dns-names": {{"--custom-dns-names=a.b:c.d,e.f:g.h", "--custom-dns-names=a.b:c.d --custom-dns-names=e.f:g.h", ""},
			{"--custom-dns-names=a.b:istio-ca", "", "custom-dns-names: "}},
		"enable-profiling": {{"--enable-profiling", "--profile", ""}, {"--enable-profiling=false", "", ""},
			{"--enable-profiling=x", "", `enable-profiling: "x": true or false`}},
		"experimental-dual-use": {{"--experimental-dual-use=0", "", ""}, {"--experimental-dual-use", "", "no common name"}},
		"grpc-host-identities": {{"--grpc-host-identities=istio-ca,istio-citadel", "", ""},
			{"--grpc-host-identities=other", "", "for others use --custom-dns-names"}},
		"grpc-hostname": {{"--grpc-hostname=citadel", "", ""}, {"--grpc-hostname other", "", "had no effect"}},
		"grpc-port": {{"--grpc-port 8061", "--listen=:8061", ""}, {"--grpc-port=0", "", `grpc-port: "0": no port`},
			{"--grpc-port=65536", "", "no port"}, {"--grpc-port=1 --listen=:2", "", "grpc-port: listen is there as well"}},
		"key-size": {{"--key-size=2048", "--ca-key=rsa2048", ""}, {"--key-size=4096", "--ca-key=rsa4096", ""},
			{"--key-size=1024", "", `key-size: "1024": 2048 or 4096`}},
		"kube-config": {{"--kube-config=/a", "--kubeconfig=/a", ""}},
		"listened-namespace": {{"--listened-namespace=a", "--secret-namespaces=a", ""},
			{"--listened-namespace=a --listened-namespaces=b", "", "secret-namespaces is there as well"}},
		"listened-namespaces": {{"--listened-namespaces=a,b", "--secret-namespaces=a,b", ""},
			{"--listened-namespaces=", "--secret-namespaces=", ""}, {"--listened-namespaces=A", "", `secret-namespaces: "A"`}},
		"liveness-probe-interval": {{"--liveness-probe-interval=60s", "", "/healthz at --admin"}},
		"liveness-probe-path":     {{"--liveness-probe-path=/tmp/ca.liveness", "", "/healthz at --admin"}},
		"max-workload-cert-ttl":   {{"--max-workload-cert-ttl=100h", "--max-workload-cert-ttl=100h", ""}},
		"monitoring-port":         {{"--monitoring-port=9093", "--admin=:9093", ""}, {"--monitoring-port=-1", "", "cannot be switched off"}},
		"org":                     {{"--org=", "", ""}, {"--org=Juju", "", "organization is the trust domain"}},
		"probe-check-interval":    {{"--probe-check-interval=30s", "", "/readyz at --admin"}},
		"read-signing-cert-only":  {{"--read-signing-cert-only=false", "", ""}, {"--read-signing-cert-only", "", "--ca=plugged makes none"}},
		"requested-ca-cert-ttl":   {{"--requested-ca-cert-ttl=8760h", "", "no upstream CA"}},
		"root-cert":               {{files + "--self-signed-ca=false", files + "--ca=plugged", ""}},
		"sds-enabled":             {{"--sds-enabled=true", "", ""}, {"--sds-enabled=false", "", "NetworkPolicy"}},
		"self-signed-ca": {{"--self-signed-ca", "--ca=self-signed", ""}, {"--self-signed-ca=false", "--ca=plugged", ""},
			{"--self-signed-ca=true " + files, "", "ca self-signed: excludes the files"}},
		"self-signed-ca-cert-ttl": {{"--self-signed-ca-cert-ttl=80000h", "--root-ttl=80000h", ""},
			{"--self-signed-ca-cert-ttl=long", "", "it is --root-ttl now"}},
		"server-only": {{"--server-only", "--secret-scope=none", ""}, {"--server-only=false", "", ""},
			{"--server-only --secret-namespace-selector=a", "", "secret-namespace-selector: contradicts"}},
		"sign-ca-certs": {{"--sign-ca-certs=false", "", ""}, {"--sign-ca-certs", "", "no caller gets"}},
		"signing-cert":  {{files, files, ""}, {"--signing-cert=/a", "", "all of them or none"}},
		"signing-key":   {{files, files, ""}, {"--signing-key=/a", "", "all of them or none"}},
		"trust-domain":  {{"--trust-domain=a.b", "--trust-domain=a.b", ""}, {"--trust-domain=a@b", "", "trust-domain: "}},
		"upstream-ca-address": {{"--upstream-ca-address=", "", ""},
			{"--upstream-ca-address=ca:80", "", `upstream-ca-address: "ca:80" means nothing since Citadel 1.1: no upstream CA is asked: plug in`}},
		"workload-cert-grace-period-ratio": {{"--workload-cert-grace-period-ratio=0.3", "--workload-cert-grace-period-ratio=0.30", ""},
			{"--workload-cert-grace-period-ratio=1", "", "workload-cert-grace-period-ratio: "}},
		"workload-cert-min-grace-period": {{"--workload-cert-min-grace-period=20m", "--workload-cert-min-grace-period=1200s", ""}},
		"workload-cert-ttl":              {{"--workload-cert-ttl=2160h", "--workload-cert-ttl=129600m", ""}},
	}
	plain, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classics() {
		accepted := 0
		for _, row := range cases[c.name] {
			got, err := parse(strings.Fields(row.args), io.Discard)
			if row.refusal != "" {
				if err == nil || !strings.Contains(err.Error(), row.refusal) {
					t.Errorf("%s: %v, want %s", row.args, err, row.refusal)
				}
				continue
			}
			accepted++
			want, wrong := parse(strings.Fields(row.means), io.Discard)
			if err != nil || wrong != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, %v\n%+v, as %q:\n%+v", row.args, err, wrong, got, row.means, want)
			}
			if row.means != "" && reflect.DeepEqual(got, plain) && !strings.HasSuffix(row.means, "=") {
				t.Errorf("%s changes nothing", row.args)
			}
		}
		if (accepted == 0) != (c.ours == "" && len(c.idle) == 0) {
			t.Errorf("%d cases accept %s", accepted, c.name)
		}
		delete(cases, c.name)
	}
	for name := range cases {
		t.Errorf("%s is no flag of 1.1", name)
	}
}

// A server only has Secrets for the mesh's own servers and for nobody else.
func TestServerOnly(t *testing.T) {
	s, err := parse([]string{"--server-only"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{mesh.SystemNamespace: true, "shop": false} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{mesh.InjectionLabel: "enabled"}}}
		if got := s.secrets.scope.Includes(ns, nil, true); got != want {
			t.Errorf("Secrets in %s: %t", name, got)
		}
	}
}

// What the chart of Istio 1.1 starts Citadel with, for either kind of CA, and the one
// thing to add: that Pilot may have names of its own.
func TestClassicChart(t *testing.T) {
	const chart = "--append-dns-names=true --grpc-port=8060 --grpc-hostname=citadel --citadel-storage-namespace=istio-system " +
		"--custom-dns-names=istio-pilot-service-account.istio-system:istio-pilot.istio-system --custom-dns-names-of-servers " +
		"--monitoring-port=15014 --workload-cert-ttl=2160h --trust-domain=cluster.local "
	for _, args := range []string{
		"--self-signed-ca=true",
		"--self-signed-ca=false --signing-cert=/etc/cacerts/ca-cert.pem --signing-key=/etc/cacerts/ca-key.pem " +
			"--root-cert=/etc/cacerts/root-cert.pem --cert-chain=/etc/cacerts/cert-chain.pem",
	} {
		if _, err := parse(strings.Fields(chart+args), io.Discard); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// All complaints come at once, and the names of 1.1 are for the command line only.
func TestClassicIsForTheCommandLine(t *testing.T) {
	_, err := parse([]string{"--sign-ca-certs", "--org=x", "--trust-domain=A"}, io.Discard)
	for _, want := range []string{"sign-ca-certs: ", "org: ", "trust-domain: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
	if _, err := parse([]string{"--config", file(t, "grpc-port: 1\n")}, io.Discard); err == nil || !strings.Contains(err.Error(), `unknown key "grpc-port"`) {
		t.Errorf("in the file: %v", err)
	}
	t.Setenv("GARRISON_GRPC_PORT", "8061")
	if s, err := parse(nil, io.Discard); err != nil || s.listen != ":8060" {
		t.Errorf("in the environment: %s, %v", s.listen, err)
	}
	t.Setenv("GARRISON_LISTEN", ":1")
	if s, err := parse([]string{"--grpc-port=8061"}, io.Discard); err != nil || s.listen != ":8061" {
		t.Errorf("before the environment: %s, %v", s.listen, err)
	}
	var usage bytes.Buffer
	parse([]string{"--help"}, &usage)
	if strings.Contains(usage.String(), "grpc-port") || !strings.Contains(usage.String(), "--listen") {
		t.Errorf("--help:\n%s", usage.String())
	}
}

// istiod's variables have a place like GARRISON_ ones, behind these.
func TestIstiodVariables(t *testing.T) {
	given := map[string]string{
		"CA_TRUSTED_NODE_ACCOUNTS": "istio-system/ztunnel", "CITADEL_SELF_SIGNED_CA_CERT_TTL": "80000h", "DEFAULT_WORKLOAD_CERT_TTL": "12h", "MAX_WORKLOAD_CERT_TTL": "100h",
		"ROOT_CA_DIR": "/etc/cacerts", "TOKEN_AUDIENCES": "istio-ca,mesh",
	}
	for _, v := range variables() {
		if value, ok := given[v.name]; ok != (v.ours != "") {
			t.Errorf("%s sets %q, and has no case", v.name, v.ours)
		} else if t.Setenv(v.name, "spoilt"); ok { // where it is not read nothing minds
			t.Setenv(v.name, value)
		}
	}
	got, err := parse([]string{"--workload-cert-ttl=13h"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for name := range given {
		os.Unsetenv(name) // Setenv restores it
	}
	want, err := parse(strings.Fields("--root-ttl=80000h --workload-cert-ttl=13h --max-workload-cert-ttl=100h "+
		"--ca-dir=/etc/cacerts --token-audience=istio-ca,mesh --trusted-node-accounts=istio-system/ztunnel"), io.Discard)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want\n%+v, %v", got, want, err)
	}
	t.Setenv("MAX_WORKLOAD_CERT_TTL", "100h")
	t.Setenv("GARRISON_MAX_WORKLOAD_CERT_TTL", "99h")
	if s, err := parse(nil, io.Discard); err != nil || s.authority.MaxTTL.Hours() != 99 {
		t.Errorf("%v, %v: our own name comes first", s.authority.MaxTTL, err)
	}
}

// The tables of the documentation are those of the code, and every flag that they send
// readers to exists.
func TestClassicDocs(t *testing.T) {
	const path, begin, end = "../../docs/citadel.md", "-update -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the tables", path)
	}
	want := classicTables()
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s is not what the tables say; run this test with -update\n%s", path, diff)
	}
	var usage bytes.Buffer
	parse([]string{"--help"}, &usage)
	for _, word := range strings.FieldsFunc(want, func(r rune) bool { return strings.ContainsRune("`= |,;()", r) }) {
		if name, ok := strings.CutPrefix(word, "--"); ok && strings.Trim(name, "-") != "" && !strings.Contains(want, "| `--"+name+"` |") && !strings.Contains(usage.String(), "--"+name+" ") {
			t.Errorf("there is no flag --%s", name)
		}
	}
	for _, c := range classics() {
		if c.ours != "" && !strings.Contains(usage.String(), "--"+c.ours+" ") && !strings.Contains(usage.String(), "--"+c.ours+"\n") {
			t.Errorf("%s sets --%s, which is not there", c.name, c.ours)
		}
		if c.ours == "" && c.say == "" {
			t.Errorf("%s is refused without a reason", c.name)
		}
	}
}

func classicTables() string {
	var b strings.Builder
	b.WriteString("\n| flag of 1.1 | is here | |\n|---|---|---|\n")
	for _, c := range classics() {
		is := "refused"
		switch {
		case c.ours == c.name:
			is = "the same"
		case c.ours != "":
			is = "`--" + c.ours + "`"
		case len(c.idle) > 0:
			is = "refused but for `" + strings.Join(c.idle, "`, `") + "`"
			if c.idle[0] == "" {
				is = "refused unless empty"
			}
		}
		fmt.Fprintf(&b, "| `--%s` | %s | %s |\n", c.name, is, c.say)
	}
	b.WriteString("\nOf the variables that configure the CA in istiod:\n\n| variable | is here | |\n|---|---|---|\n")
	for _, v := range variables() {
		is := "not read"
		if v.ours != "" {
			is = "`--" + v.ours + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.name, is, v.say)
	}
	b.WriteString("\n")
	return b.String()
}
