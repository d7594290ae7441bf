package ca

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func TestScope(t *testing.T) {
	selects := func(text string) labels.Selector {
		s, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ns := func(name string, labels ...string) *corev1.Namespace {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
		for i := 0; i < len(labels); i += 2 {
			n.Labels[labels[i]] = labels[i+1]
		}
		return n
	}
	plain, on := ns("plain"), ns("on", "istio-injection", "enabled")
	team := ns("team", "team", "a", "istio-injection", "disabled")
	mine := map[string]string{"mesh": "yes"}
	for _, c := range []struct {
		name   string
		scope  Scope
		ns     *corev1.Namespace
		labels map[string]string
		used   bool
		want   bool
	}{
		{"without a label", Scope{}, plain, nil, true, false},
		{"injection on", Scope{}, on, nil, false, true},
		{"injection off", Scope{}, ns("off", "istio-injection", "disabled"), nil, true, false},
		{"an odd word", Scope{}, ns("odd", "istio-injection", "yes"), nil, true, false},
		{"a revision", Scope{}, ns("revision", "istio.io/rev", "canary"), nil, false, true},
		{"off beats a revision", Scope{}, ns("both", "istio.io/rev", "canary", "istio-injection", "disabled"), nil, true, false},
		{"the servers'", Scope{System: "mesh"}, ns("mesh", "istio-injection", "disabled"), nil, false, true},
		{"where the servers are not", Scope{System: "mesh"}, ns("istio-system"), nil, true, false},
		{"all", Scope{All: true}, plain, nil, false, true},
		{"all means all", Scope{All: true}, ns("off", "istio-injection", "disabled"), nil, false, true},
		{"selected", Scope{Namespaces: selects("team=a")}, team, nil, false, true},
		{"not selected", Scope{Namespaces: selects("team=a")}, on, nil, false, false},
		{"account selected", Scope{Accounts: selects("mesh")}, on, mine, false, true},
		{"account not selected", Scope{Accounts: selects("mesh")}, on, nil, true, false},
		{"account of another namespace", Scope{Accounts: selects("mesh")}, plain, mine, true, false},
		{"used", Scope{Used: true}, on, nil, true, true},
		{"not used", Scope{Used: true}, on, nil, false, false},
		{"used elsewhere", Scope{Used: true}, plain, nil, true, false},
		{"servers' without a pod", Scope{Used: true, Accounts: selects("mesh"), System: "mesh"}, ns("mesh"), nil, false, true},
	} {
		if got := c.scope.Includes(c.ns, c.labels, c.used); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

func TestLegacyRootConfigMap(t *testing.T) {
	a, _ := open(t, noon, Options{})
	if got := a.LegacyRootConfigMap(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); got != nil {
		t.Errorf("elsewhere: %v", got)
	}
	got := a.LegacyRootConfigMap(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "istio-system"}})
	text, err := base64.StdEncoding.DecodeString(got.Data["caTLSRootCert"])
	if err != nil || !bytes.Equal(text, a.Bundle()) || got.Name != "istio-security" || len(got.Data) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestRootConfigMap(t *testing.T) {
	a, _ := open(t, noon, Options{})
	now := metav1.Now()
	for _, ns := range []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "kube-public"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "kube-node-lease"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "going", DeletionTimestamp: &now}},
		{ObjectMeta: metav1.ObjectMeta{Name: "gone"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}},
	} {
		if got := a.RootConfigMap(ns); got != nil {
			t.Errorf("%s has %v", ns.Name, got)
		}
	}
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "kube-system", Name: "istio-ca-root-cert",
			Labels: map[string]string{"app.kubernetes.io/managed-by": "garrison", "istio.io/config": "true"},
		},
		Data: map[string]string{"root-cert.pem": string(a.Bundle())},
	}
	got := a.RootConfigMap(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config map (-want +got):\n%s", diff)
	}
}
