//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseOptions(t *testing.T) {
	env := map[string]string{"HOME": "/home/u", "PATH": "/bin"}
	base := options{command: "up", cluster: "cluster", nodes: 1, cache: "/home/u/.cache", path: "/bin"}
	with := func(change func(*options)) options { o := base; change(&o); return o }
	for _, c := range []struct {
		args string
		env  map[string]string
		want options
	}{
		{"up", nil, base},
		{"up", map[string]string{"CLUSTER": "a", "NODES": "2"}, with(func(o *options) { o.cluster, o.nodes = "a", 2 })},
		{"up -cluster b -nodes 3", map[string]string{"CLUSTER": "a", "NODES": "2"}, with(func(o *options) { o.cluster, o.nodes = "b", 3 })},
		{"down", map[string]string{"XDG_CACHE_HOME": "/c"}, with(func(o *options) { o.command, o.cache = "down", "/c" })},
		{"stop-apiserver", nil, with(func(o *options) { o.command = "stop-apiserver" })},
		{"apiserver --dir /d", nil, with(func(o *options) { o.command, o.dir = "apiserver", "/d" })},
	} {
		got, err := parseOptions(strings.Fields(c.args), func(k string) string { return or(c.env[k], env[k]) })
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(options{})); diff != "" {
			t.Errorf("%s, %v (-want +got):\n%s", c.args, c.env, diff)
		}
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	for _, args := range []string{
		"", "Up", "up down", "up -nodes 0", "up -nodes x", "up -nodes 9", "up -cluster ../x", "up -cluster elevenchars",
		"up -no-such-flag", "up -dir /d", "apiserver",
	} {
		o, err := parseOptions(strings.Fields(args), func(string) string { return "" })
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%q: %+v, %v; want a usage error", args, o, err)
		}
	}
}
