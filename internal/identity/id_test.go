package identity

import (
	"strings"
	"testing"
)

func TestParseAccepts(t *testing.T) {
	for _, uri := range []string{
		"spiffe://cluster.local/ns/default/sa/sleep",
		"spiffe://prod_1.example-org/ns/a/sa/a.b-c.d",
	} {
		id, err := Parse(uri)
		if err != nil {
			t.Errorf("Parse(%q): %v", uri, err)
			continue
		}
		if id.String() != uri || id.URL().String() != uri {
			t.Errorf("Parse(%q) prints as %q, its URL as %q", uri, id, id.URL())
		}
	}
}

func TestParseRefuses(t *testing.T) {
	cases := map[string]string{
		"":                                      "spiffe://",
		"https://cluster.local/ns/a/sa/b":       "spiffe://",
		"spiffe://cluster.local/ns/a":           "form",
		"spiffe://cluster.local/ns/a/sa/b/":     "form",
		"spiffe://cluster.local/sa/b/ns/a":      "form",
		"spiffe:///ns/a/sa/b":                   "trust domain",
		"spiffe://user@cluster.local/ns/a/sa/b": "trust domain",
		"spiffe://cluster.local:80/ns/a/sa/b":   "trust domain",
		"spiffe://x,istiod.istio-system.svc,cluster.local/ns/demo/sa/def": "trust domain",
		"spiffe://Cluster.local/ns/a/sa/b":                                "trust domain",
		"spiffe://cluster.local/ns/a.b/sa/b":                              "namespace",
		"spiffe://cluster.local/ns//sa/b":                                 "namespace",
		"spiffe://cluster.local/ns/" + strings.Repeat("a", 64) + "/sa/b":  "namespace",
		"spiffe://cluster.local/ns/a/sa/-b":                               "service account",
		"spiffe://cluster.local/ns/a/sa/b?x":                              "service account",
		"spiffe://cluster.local/ns/a/sa/b%2fc":                            "service account",
		"spiffe://cluster.local/ns/a/sa/b\n":                              "service account",
		"spiffe://cluster.local/ns/a/sa/" + strings.Repeat("a", 254):      "service account",
	}
	for uri, want := range cases {
		id, err := Parse(uri)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error about the %s", uri, id, want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want it to name the %s", uri, err, want)
		}
	}
}

func TestNewRefusesZeroDomain(t *testing.T) {
	if id, err := New(TrustDomain{}, "a", "b"); err == nil {
		t.Errorf("New without trust domain = %v", id)
	}
}

// FuzzParse holds the law that one identity has one spelling.
func FuzzParse(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/default/sa/sleep")
	f.Add("spiffe://cluster.local/ns/default/sa/sleep/")
	f.Add("spiffe://a@b/ns/c/sa/d")
	f.Fuzz(func(t *testing.T, uri string) {
		id, err := Parse(uri)
		if err != nil {
			return
		}
		if id.String() != uri || id.URL().String() != uri {
			t.Errorf("%q prints as %q, its URL as %q", uri, id, id.URL())
		}
		again, err := New(id.TrustDomain(), id.Namespace(), id.Account())
		if err != nil || again != id {
			t.Errorf("%q: New of its parts = %v, %v", uri, again, err)
		}
	})
}
