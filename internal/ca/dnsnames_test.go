package ca

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestDNSNames(t *testing.T) {
	given, err := ParseDNSNames([]string{"cart.shop:cart.example.com", "cart.shop:cart", "a.b.shop:ab.example.com",
		"istio-citadel-service-account.istio-system:ca.example.com"}, false)
	if err != nil {
		t.Fatal(err)
	}
	a, root := open(t, noon, Options{DNSNames: given})
	for account, want := range map[mesh.ServiceAccount][]string{
		{Namespace: "shop", Name: "cart", UID: "1"}: {"cart.example.com", "cart"},
		{Namespace: "shop", Name: "a.b", UID: "1"}:  {"ab.example.com"},
		{Namespace: "other", Name: "cart"}:          nil,
		{Namespace: "istio-system", Name: "istio-citadel-service-account", UID: "1"}: {
			"istio-citadel", "istio-citadel.istio-system", "istio-citadel.istio-system.svc", "istio-citadel.istio-system.svc.cluster.local",
			"istio-ca", "istiod.istio-system.svc", "istiod-remote.istio-system.svc", "istio-pilot.istio-system.svc", "ca.example.com",
		},
	} {
		n, err := a.options.namesOf(account)
		if diff := cmp.Diff(want, n.dns, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%s: %v, names (-want +got): %s", account, err, diff)
		}
	}
	s := newSecret(t, a, mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "1"}, noon)
	plain, err := Open(root, Options{})
	if err == nil {
		_, err = plain.CheckSecret(mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "1"}, s, noon)
	}
	wantError(t, err, "DNS names")
}

func TestDNSNamesRefused(t *testing.T) {
	for _, entry := range []string{
		"", "cart", "cart.shop", "cart:x.example.com", ".shop:x.example.com", "cart.:x.example.com", "cart.shop:", "cart.shop:*.example.com",
		"cart.shop:x.example.com:443", "Cart.shop:x.example.com", "cart.shop:X.example.com", "cart.shop:10.0.0.1", "cart.shop:x_y",
		"cart.shop:istiod.istio-system.svc", "cart.shop:istiod-canary.istio-system.svc", "cart.shop:istio-ca", "cart.shop:istio-citadel",
		"cart.shop:istio-pilot.istio-system.svc.cluster.local", "cart.shop:istio-sidecar-injector.elsewhere.svc",
	} {
		if d, err := ParseDNSNames([]string{entry}, false); err == nil {
			t.Errorf("%q: %v", entry, d)
		}
	}
	if _, err := ParseDNSNames([]string{"a.b:x", "a.b:x"}, false); err == nil {
		t.Error("one name twice: accepted")
	}
	if _, err := ParseDNSNames([]string{"istio-pilot.istio-system:istiod.istio-system.svc"}, true); err != nil {
		t.Errorf("said explicitly: %v", err)
	}
}
