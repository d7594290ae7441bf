package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// installed returns an installation with these webhooks, and settings for each of their
// revisions.
func installed(t *testing.T, webhooks ...inject.Webhook) *installation {
	t.Helper()
	i := &installation{overlays: &inject.Overlays{}, given: map[string]inject.Settings{}, settings: map[string]inject.Settings{}}
	for _, w := range webhooks {
		config, err := w.Configuration()
		if err != nil {
			t.Fatal(err)
		}
		i.webhooks = append(i.webhooks, config)
		s, err := inject.NewSettings(inject.Options{Image: "garrison/proxy:test", Revision: w.Revision})
		if err != nil {
			t.Fatal(err)
		}
		i.given[s.Revision()] = s
	}
	return i
}

// installedIn returns the default installation with a labelled namespace.
func installedIn(t *testing.T, namespace string) *installation {
	i := installed(t, inject.Webhook{})
	i.fallback = namespace
	i.namespaces = map[string]mesh.Namespace{namespace: {Name: namespace, Labels: map[string]string{mesh.InjectionLabel: "enabled"}}}
	return i
}

const barePod = `{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`

// Who decides, or why nobody does and what helps, in installations of one and of
// several revisions.
func TestJudgeSelection(t *testing.T) {
	canary := inject.Webhook{Revision: "canary"}
	alone := []inject.Webhook{{}}
	beside := []inject.Webhook{{}, canary, {Revision: "canary", Tag: "prod"}}
	instead := []inject.Webhook{{Neutral: true}, canary, {Revision: "canary", Tag: "default"}}
	without := []inject.Webhook{canary}
	for name, c := range map[string]struct {
		installed  []inject.Webhook
		ns, labels map[string]string
		want       string
	}{
		"enabled":                        {alone, map[string]string{mesh.InjectionLabel: "enabled"}, nil, "injected by default of istio-sidecar-injector"},
		"a revision":                     {beside, map[string]string{mesh.RevisionLabel: "canary"}, nil, "injected by canary of istio-sidecar-injector-canary"},
		"a tag":                          {beside, map[string]string{mesh.RevisionLabel: "prod"}, nil, "injected by canary of istio-revision-tag-prod"},
		"the tag default":                {instead, map[string]string{mesh.InjectionLabel: "enabled"}, nil, "injected by canary of istio-revision-tag-default"},
		"the pod's revision":             {beside, nil, map[string]string{mesh.RevisionLabel: "canary"}, "injected by canary of istio-sidecar-injector-canary"},
		"no default":                     {without, map[string]string{mesh.InjectionLabel: "enabled"}, nil, "left-out: no webhook entry selects it: namespace shop is labelled istio-injection=enabled, and no revision is the default; label it istio.io/rev instead, with one that is there: canary"},
		"no such revision":               {beside, map[string]string{mesh.RevisionLabel: "r9"}, nil, "left-out: no webhook entry selects it: namespace shop is labelled istio.io/rev=r9, and no revision or tag has that name; install it, or take one that is there: canary, default, prod"},
		"no such revision of a pod":      {beside, nil, map[string]string{mesh.RevisionLabel: "r9"}, "left-out: no webhook entry selects it: the pod is labelled istio.io/rev=r9, and no revision or tag has that name; install it, or take one that is there: canary, default, prod"},
		"switched off":                   {[]inject.Webhook{{Neutral: true}, canary}, map[string]string{mesh.RevisionLabel: "default"}, nil, "left-out: no webhook entry selects it: namespace shop is labelled istio.io/rev=default, and no revision or tag has that name; install it, or take one that is there: canary"},
		"nothing installed":              {nil, map[string]string{mesh.InjectionLabel: "enabled"}, nil, "left-out: no webhook entry selects it: the cluster has no webhook of Garrison's; install Garrison"},
		"strict, and the pod's revision": {beside, map[string]string{mesh.CaptureLabel: mesh.CaptureStrict}, map[string]string{mesh.RevisionLabel: "canary"}, "refused: metadata.labels[istio.io/rev]: namespace shop is labelled garrison.io/capture=strict, so it has to say itself which revision its pods get; kubectl label namespace shop istio.io/rev=canary"},
		"strict, and not selected":       {alone, map[string]string{mesh.CaptureLabel: mesh.CaptureStrict}, nil, "refused: metadata.namespace: namespace shop is labelled garrison.io/capture=strict, so every pod in it needs the sidecar, and this one does not get it: no webhook entry selects it: namespace shop has neither label istio-injection nor istio.io/rev; kubectl label namespace shop istio-injection=enabled"},
	} {
		t.Run(name, func(t *testing.T) {
			i := installed(t, c.installed...)
			pod := barePod
			for key, value := range c.labels {
				pod = strings.Replace(pod, `"name":"a"}`, `"name":"a","labels":{"`+key+`":"`+value+`"}}`, 1)
			}
			j, err := i.judge(t.Context(), mesh.Namespace{Name: "shop", Labels: c.ns}, []byte(pod))
			got := j.outcome + ": " + sentence(j)
			if j.outcome == injected {
				got = "injected by " + j.settings.Revision() + " of " + j.called.Configuration
			}
			if err != nil || got != c.want {
				t.Errorf("%v, %s\nwant %s", err, got, c.want)
			}
		})
	}
	j, err := installed(t, inject.Webhook{}).judge(t.Context(), mesh.Namespace{Name: "kube-system", Labels: map[string]string{mesh.InjectionLabel: "enabled", mesh.CaptureLabel: mesh.CaptureStrict}}, []byte(barePod))
	if got, want := sentence(j), "no webhook entry selects it: namespace kube-system belongs to the system"; err != nil || j.outcome != leftOut || got != want {
		t.Errorf("%v, %s: %s, want %s", err, j.outcome, got, want)
	}
}

// A condition that fails is the API server's to refuse, one that cannot be evaluated
// here nobody's to guess.
func TestJudgeConditions(t *testing.T) {
	ignore := admissionregistrationv1.Ignore
	for expression, c := range map[string]struct {
		policy          *admissionregistrationv1.FailurePolicyType
		outcome, reason string
	}{
		"true":                                 {nil, injected, "selected"},
		"object.metadata.name == 'b'":          {nil, leftOut, "not-selected"},
		"object.metadata.labels.app == 'a'":    {nil, refused, "condition-failed"},
		"request.userInfo.username == 'a'":     {nil, undecided, "condition-open"},
		"object.metadata.labels.other == 'a'":  {&ignore, leftOut, "not-selected"},
		"request.userInfo.username == 'other'": {&ignore, undecided, "condition-open"},
	} {
		i := installed(t, inject.Webhook{})
		for n := range i.webhooks[0].Webhooks {
			e := &i.webhooks[0].Webhooks[n]
			e.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "c", Expression: expression}}
			e.FailurePolicy = c.policy
		}
		j, err := i.judge(t.Context(), mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}, []byte(barePod))
		if err != nil || j.outcome != c.outcome || string(j.reason) != c.reason {
			t.Errorf("%s: %v, %s, %s, want %s, %s", expression, err, j.outcome, j.reason, c.outcome, c.reason)
		}
		if j.called == nil && c.outcome == injected || j.called != nil && c.outcome != injected {
			t.Errorf("%s: called %v", expression, j.called)
		}
	}
}

// What an entry adds to the path sets variables of the sidecar.
func TestJudgePath(t *testing.T) {
	for path, want := range map[string]string{
		"/inject":                               "",
		"/inject/cluster/c/net/":                "refused: path of the webhook: \"net\" has no value",
		"/inject/cluster/c":                     `{"name":"ISTIO_META_CLUSTER_ID","value":"c"}`,
		"https://injector:443/inject/cluster/d": `{"name":"ISTIO_META_CLUSTER_ID","value":"d"}`,
	} {
		i := installed(t, inject.Webhook{})
		for n := range i.webhooks[0].Webhooks {
			c := &i.webhooks[0].Webhooks[n].ClientConfig
			if c.Service.Path = &path; strings.Contains(path, ":") {
				c.Service, c.URL = nil, &path
			}
		}
		j, err := i.judge(t.Context(), mesh.Namespace{Name: "shop", Labels: map[string]string{mesh.InjectionLabel: "enabled"}}, []byte(barePod))
		if err != nil {
			t.Fatal(err)
		}
		patch, err := inject.Patch(j.Injection.Ops)
		if err != nil {
			t.Fatal(err)
		}
		got := j.outcome + ": " + j.why
		if j.outcome == injected {
			_, got, _ = strings.Cut(string(patch), `{"name":"TRUST_DOMAIN","value":"cluster.local"}`)
			got, _, _ = strings.Cut(strings.TrimPrefix(got, ","), "]")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", path, diff)
		}
	}
}
