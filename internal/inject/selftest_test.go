package inject

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Each entry is tested once, also one that is gone, and none that is switched off.
func TestSelfTests(t *testing.T) {
	const (
		own  = "sidecar-injector/"
		can  = "sidecar-injector-canary/"
		prod = "revision-tag-prod/"
		tag  = "revision-tag-default/"
	)
	entries := func(configuration string, names ...string) (all []string) {
		for _, n := range names {
			all = append(all, configuration+n)
		}
		return all
	}
	four := []string{"namespace", "object", "rev.namespace", "rev.object"}
	two := four[2:]
	five := append(slices.Clone(four), "auto")
	gone := configuration(t, Webhook{NamespacesByDefault: true})
	gone.Webhooks = slices.Concat(gone.Webhooks[1:4], []admissionregistrationv1.MutatingWebhook{{Name: "mine." + mesh.InjectorWebhookSuffix}}, gone.Webhooks[4:])
	type config = *admissionregistrationv1.MutatingWebhookConfiguration
	for name, tc := range map[string]struct {
		revision  string
		installed []config
		want      []string
	}{
		"default":                {"default", []config{configuration(t, Webhook{})}, entries(own, four...)},
		"every namespace":        {"default", []config{configuration(t, Webhook{NamespacesByDefault: true})}, entries(own, five...)},
		"one gone, one unknown":  {"default", []config{gone}, entries(own, five...)},
		"nothing installed":      {"default", nil, entries(own, four...)},
		"only a tag installed":   {"default", []config{configuration(t, Webhook{Tag: "prod"})}, slices.Concat(entries(prod, two...), entries(own, four...))},
		"switched off":           {"default", []config{configuration(t, Webhook{Neutral: true})}, nil},
		"canary":                 {"canary", []config{configuration(t, Webhook{Revision: "canary"})}, entries(can, two...)},
		"canary, nothing yet":    {"canary", nil, entries(can, two...)},
		"canary, by a tag alone": {"canary", []config{configuration(t, Webhook{Revision: "canary", Tag: "prod"})}, entries(prod, two...)},
		"canary is the default": {"canary", []config{
			configuration(t, Webhook{Revision: "canary"}), configuration(t, Webhook{Revision: "canary", Tag: "default", NamespacesByDefault: true}),
		}, slices.Concat(entries(can, two...), entries(tag, five...))},
	} {
		var installed []admissionregistrationv1.MutatingWebhookConfiguration
		for _, c := range tc.installed {
			installed = append(installed, *c)
		}
		var got []string
		for _, s := range SelfTests(tc.revision, installed) {
			got = append(got, strings.TrimPrefix(s.Webhook, "istio-")+"/"+strings.TrimSuffix(s.Entry, "."+mesh.InjectorWebhookSuffix))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
