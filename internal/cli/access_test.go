package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

const kubeconfig = `{apiVersion: v1, kind: Config, current-context: NAME,
clusters: [{name: NAME, cluster: {server: "https://NAME.example"}}, {name: other, cluster: {server: "https://other.example"}}],
contexts: [{name: NAME, context: {cluster: NAME, namespace: NAME-ns}}, {name: second, context: {cluster: other}}]}`

// Which cluster and namespace a command talks to, by files and flags.
func TestAccess(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(kubeconfig, "NAME", name)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first, last, absent := file("first"), file("last"), filepath.Join(dir, "absent")
	list := func(files ...string) string { return strings.Join(files, string(filepath.ListSeparator)) }
	cases := map[string]struct {
		files, args     string
		host, namespace string
		err             string
	}{
		"the variable":         {first, "", "https://first.example", "first-ns", ""},
		"its first that is":    {list(absent, first, last), "", "https://first.example", "first-ns", ""},
		"the flag beats it":    {first, "--kubeconfig=" + last, "https://last.example", "last-ns", ""},
		"another context":      {first, "--context=second", "https://other.example", "default", ""},
		"context of a list":    {list(first, last), "--context=last", "https://last.example", "last-ns", ""},
		"another namespace":    {first, "-nshop", "https://first.example", "shop", ""},
		"no file":              {absent, "", "", "", "kubeconfig: invalid configuration: no configuration has been provided"},
		"no file of the flag":  {first, "--kubeconfig=" + absent, "", "", "kubeconfig: "},
		"no context like that": {first, "--context=third", "", "", `kubeconfig: context "third" does not exist`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			a := newAccess(Env{Kubeconfig: c.files}, flags)
			if err := flags.Parse(strings.Fields(c.args)); err != nil {
				t.Fatal(err)
			}
			client, err := a.client()
			if err != nil {
				if c.err == "" || !strings.HasPrefix(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				return
			}
			host := client.CoreV1().RESTClient().Get().URL()
			namespace, err := a.namespace()
			if got := host.Scheme + "://" + host.Host; err != nil || c.err != "" || got != c.host || namespace != c.namespace {
				t.Errorf("%s, %s, %v; want %s, %s, %q", got, namespace, err, c.host, c.namespace, c.err)
			}
		})
	}
}
