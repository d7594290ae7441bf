package inject

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// abridge leaves out what the sidecar always has, so that a case shows what is different.
func abridge(t *testing.T, pod []byte) []byte {
	t.Helper()
	plain, err := testCase{settings: settings(t)}.inject([]byte(`{"metadata":{},"spec":{"containers":[{"name":"a"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	always, got := object(t, plain.pod), object(t, pod)
	usual := map[string]map[string]any{}
	for _, list := range []string{"initContainers", "volumes"} {
		for _, e := range always["spec"].(map[string]any)[list].([]any) {
			usual[e.(map[string]any)["name"].(string)] = e.(map[string]any)
		}
	}
	for _, list := range []string{"initContainers", "containers", "volumes"} {
		entries, _ := got["spec"].(map[string]any)[list].([]any)
		for _, e := range entries {
			name, _ := e.(map[string]any)["name"].(string)
			if u, ok := usual[name]; ok {
				abridgeEntry(u, e.(map[string]any))
			}
		}
	}
	out, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// abridgeEntry leaves of an entry what is not as usual. What is usual and not there is
// null: a case would not show else that a probe or a variable is gone.
func abridgeEntry(usual, e map[string]any) {
	for key, u := range usual {
		switch v, ok := e[key]; {
		case !ok:
			e[key] = nil
		case key != "name" && reflect.DeepEqual(v, u):
			delete(e, key)
		}
	}
	env, ok := e["env"].([]any)
	if !ok {
		return
	}
	before, _ := usual["env"].([]any)
	left := slices.DeleteFunc(slices.Clone(env), func(v any) bool {
		return slices.ContainsFunc(before, func(u any) bool { return reflect.DeepEqual(u, v) })
	})
	for _, u := range before {
		name := u.(map[string]any)["name"]
		if !slices.ContainsFunc(env, func(v any) bool { return v.(map[string]any)["name"] == name }) {
			left = append(left, map[string]any{"name": name, "value": nil})
		}
	}
	e["env"] = left
}

func TestAbridgeEntry(t *testing.T) {
	const usual = "{name: a, image: i, restartPolicy: Always, env: [{name: B, value: b}, {name: C, value: c}]}"
	for name, c := range map[string]struct{ entry, want string }{
		"as usual":           {usual, "{name: a}"},
		"changed":            {"{name: a, image: j, restartPolicy: Always, env: [{name: B, value: b}, {name: C, value: c}]}", "{name: a, image: j}"},
		"more":               {"{name: a, image: i, restartPolicy: Always, args: [x], env: [{name: B, value: b}, {name: C, value: c}]}", "{name: a, args: [x]}"},
		"a field less":       {"{name: a, image: i, env: [{name: B, value: b}, {name: C, value: c}]}", "{name: a, restartPolicy: null}"},
		"a null of its own":  {"{name: a, image: i, restartPolicy: Always, tty: null, env: [{name: B, value: b}, {name: C, value: c}]}", "{name: a, tty: null}"},
		"a variable more":    {"{name: a, image: i, restartPolicy: Always, env: [{name: B, value: b}, {name: C, value: c}, {name: D}]}", "{name: a, env: [{name: D}]}"},
		"a variable changed": {"{name: a, image: i, restartPolicy: Always, env: [{name: B, value: d}, {name: C, value: c}]}", "{name: a, env: [{name: B, value: d}]}"},
		"a variable less":    {"{name: a, image: i, restartPolicy: Always, env: [{name: B, value: b}]}", "{name: a, env: [{name: C, value: null}]}"},
		"no variables":       {"{name: a, image: i, restartPolicy: Always}", "{name: a, env: null}"},
	} {
		got := object(t, toJSON(t, []byte(c.entry)))
		abridgeEntry(object(t, toJSON(t, []byte(usual))), got)
		if diff := cmp.Diff(object(t, toJSON(t, []byte(c.want))), got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}
