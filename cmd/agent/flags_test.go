package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"maps"
	"strings"
	"testing"
	"time"
)

func TestRefusals(t *testing.T) {
	for args, want := range map[string]string{
		"":                       "no command",
		"help":                   `unknown command "help"`,
		"redirect now":           `unknown argument "now"`,
		"proxy --concurrency=0":  "-concurrency: 0",
		"proxy --drain-time=1ms": "-drain-time",
		"proxy --log-level=loud": "log-level",
	} {
		err := run(t.Context(), strings.Fields(args), func(string) string { return "" }, io.Discard)
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("agent %s: %v, want a usage error with %q", args, err, want)
		}
	}
	var help strings.Builder
	if err := run(t.Context(), []string{"proxy", "-help"}, nil, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-envoy-log-level") {
		t.Errorf("help: %v\n%s", err, &help)
	}
}

func podEnv() map[string]string {
	return map[string]string{
		"POD_NAME": "sleep-7c5f", "POD_NAMESPACE": "default", "SERVICE_ACCOUNT": "sleep", "TRUST_DOMAIN": "cluster.local",
		"INSTANCE_IP": "10.244.1.7", "CA_ADDR": "istio-citadel.istio-system.svc:8060",
		"ISTIO_KUBE_APP_PROBERS": `{"/app-health/sleep/livez":{"tcpSocket":{"port":80}}}`,
	}
}

func TestProxyEnvironment(t *testing.T) {
	env := podEnv()
	p, err := parseProxy([]string{"--drain-time=9s"}, func(name string) string { return env[name] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if p.ID.String() != "spiffe://cluster.local/ns/default/sa/sleep" || p.Pod != "sleep-7c5f" || p.Address.String() != "10.244.1.7" ||
		p.Citadel.Addr != env["CA_ADDR"] || p.Probers.Len() != 1 || p.Envoy.Drain != 9*time.Second || p.Envoy.Concurrency != 2 {
		t.Errorf("%+v", p)
	}
	delete(env, "ISTIO_KUBE_APP_PROBERS") // a pod without probes has none
	if p, err = parseProxy(nil, func(name string) string { return env[name] }, io.Discard); err != nil || p.Probers.Len() != 0 {
		t.Errorf("no probes: %v", err)
	}
}

func TestProxyTellsAllThatIsWrongAtOnce(t *testing.T) {
	for _, name := range []string{"POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT", "TRUST_DOMAIN", "INSTANCE_IP", "CA_ADDR"} {
		env := podEnv()
		delete(env, name)
		if _, err := parseProxy(nil, func(name string) string { return env[name] }, io.Discard); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	wrong := map[string]string{
		"POD_NAMESPACE": "De fault", "INSTANCE_IP": "pod", "CA_ADDR": "istio-citadel", "ISTIO_KUBE_APP_PROBERS": `{"/x":{}}`,
	}
	env := podEnv()
	maps.Copy(env, wrong)
	_, err := parseProxy(nil, func(name string) string { return env[name] }, io.Discard)
	if err == nil {
		t.Fatal("accepted")
	}
	for name := range wrong {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v: does not name %s", err, name)
		}
	}
	if err := run(context.Background(), []string{"proxy"}, func(name string) string { return env[name] }, io.Discard); err == nil {
		t.Error("ran")
	}
}
