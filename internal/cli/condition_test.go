package cli

import (
	"errors"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/inject"
)

func creationOf(t *testing.T, pod string) podCreation {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(pod))
	if err != nil {
		t.Fatal(err)
	}
	c, err := newPodCreation("shop", raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The condition that every entry of ours has.
func TestMirrorPodCondition(t *testing.T) {
	config, err := inject.Webhook{}.Configuration()
	if err != nil {
		t.Fatal(err)
	}
	for pod, want := range map[string]bool{
		`{metadata: {}}`:                                              true,
		`{metadata: {annotations: {}}}`:                               true,
		`{metadata: {annotations: {a: b}}}`:                           true,
		`{metadata: {annotations: {kubernetes.io/config.mirror: x}}}`: false,
	} {
		for _, entry := range config.Webhooks {
			for _, condition := range entry.MatchConditions {
				if got, err := creationOf(t, pod).holds(condition); err != nil || got != want {
					t.Errorf("%s: %v, %v, want %v", pod, got, err, want)
				}
			}
		}
	}
}

func TestPodOfACondition(t *testing.T) {
	if c, err := newPodCreation("shop", []byte(`[]`)); err == nil || !strings.HasPrefix(err.Error(), "pod: ") {
		t.Errorf("%v, %v", c, err)
	}
}

func TestConditions(t *testing.T) {
	const (
		pod      = `{metadata: {name: cart-1, labels: {app: cart}}, spec: {priority: 7, containers: [{name: a, image: x/y:1}]}}`
		generate = `{metadata: {generateName: cart-}}`
		yes, no  = "true", "false"
	)
	cases := []struct{ pod, expression, want string }{
		{pod, `object.metadata.labels.app == 'cart'`, yes},
		{pod, `object.spec.priority > 7`, no},
		{pod, `object.spec.priority > 6.5`, yes},
		{pod, `object.spec.priority + 1 == 8`, yes},
		{pod, `object.spec.containers.all(c, c.image.startsWith('x/'))`, yes},
		{pod, `object.spec.containers[0].image.lowerAscii().split(':')[1] == '1'`, yes},
		{pod, `sets.contains(['a', 'b'], [object.spec.containers[0].name])`, yes},
		{pod, `object.?spec.nodeName.orValue('none') == 'none'`, yes},
		{pod, `oldObject == null`, yes},
		{pod, `request.operation == 'CREATE' && request.namespace == 'shop' && request.name == 'cart-1'`, yes},
		{generate, `has(request.name)`, no},
		{pod, `request.kind.kind == 'Pod' && request.resource.resource == 'pods' && request.kind.group == ''`, yes},

		// The condition's own fault: it is the API server's as well.
		{generate, `object.metadata.labels.app == 'cart'`, "error: no such key: labels"},
		{pod, `oldObject.metadata.name == 'x'`, "error: no such key: metadata"},
		{pod, `request.name`, "error: is of type string, not bool"},

		// Not known here, or not to be evaluated: no guess, unless it cannot matter.
		{pod, `request.userInfo.username == 'x'`, "not here: it depends on request.userInfo"},
		{pod, `has(request.userInfo.extra)`, "not here: it depends on request.userInfo"},
		{pod, `!('a' in request.userInfo.groups)`, "not here: it depends on request.userInfo"},
		{pod, `request.dryRun || has(request.options)`, "not here: it depends on request.dryRun"},
		{pod, `request.dryRun && object.spec.priority > 7`, no},
		{pod, `authorizer.group('').resource('pods').check('get').allowed()`, "not here: undeclared reference to 'authorizer'"},
		{pod, `quantity(object.spec.containers[0].image).isGreaterThan(quantity('1'))`, "not here: undeclared reference to 'quantity'"},
		{pod, `object.`, "not here: Syntax error"},
	}
	for _, c := range cases {
		got, err := creationOf(t, c.pod).holds(admissionregistrationv1.MatchCondition{Name: "c", Expression: c.expression})
		said := map[bool]string{true: yes, false: no}[got]
		switch {
		case errors.Is(err, errNotHere):
			said = strings.Replace(err.Error(), "cannot be evaluated here", "not here", 1)
		case err != nil:
			said = "error: " + err.Error()
		}
		if said != c.want && (err == nil || !strings.HasPrefix(said, c.want)) {
			t.Errorf("%s: %s\nwant %s", c.expression, said, c.want)
		}
	}
}
