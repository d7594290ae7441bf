package inject

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What merging adds to a list costs one operation, wherever it puts it.
func TestDifferenceOfLists(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{`{"a":[1,2]}`, `{"a":[0,1,2]}`, `[{"op":"add","path":"/a/0","value":0}]`},
		{`{"a":[1,2]}`, `{"a":[1,2,3]}`, `[{"op":"add","path":"/a/2","value":3}]`},
		{`{"a":[1,2]}`, `{"a":[1,7,8,2]}`, `[{"op":"add","path":"/a/1","value":7},{"op":"add","path":"/a/2","value":8}]`},
		{`{"a":[1,1]}`, `{"a":[1,1,1]}`, `[{"op":"add","path":"/a/2","value":1}]`},
		{`{"a":[1,{"b":2},3]}`, `{"a":[0,1,{"b":3},3]}`, `[{"op":"replace","path":"/a/0","value":0},{"op":"replace","path":"/a/1","value":1},{"op":"add","path":"/a/2","value":{"b":3}}]`},
		{`{"a":[1,{"b":2},3]}`, `{"a":[1,{"b":4},3]}`, `[{"op":"replace","path":"/a/1/b","value":4}]`},
		{`{"a":[1,2]}`, `{"a":[1]}`, `[{"op":"replace","path":"/a","value":[1]}]`},
		{`{"a":[]}`, `{"a":[1]}`, `[{"op":"replace","path":"/a","value":[1]}]`},
	} {
		ops := difference("", decoded(t, c.before), decoded(t, c.after))
		if got, err := Patch(ops); err != nil || string(got) != c.want {
			t.Errorf("%s → %s:\n%s, %v\nwant %s", c.before, c.after, got, err, c.want)
		}
	}
}

// The operations make the one document of the other, whatever they are.
func TestDifferenceLeadsThere(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		before, after := map[string]any{"a": randomValue(random, 3)}, map[string]any{"a": randomValue(random, 3)}
		raw, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Apply(raw, difference("", before, after))
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if diff := cmp.Diff(any(after), decoded(t, string(got))); diff != "" {
			t.Fatalf("%s: %s", raw, diff)
		}
	}
}

func randomValue(r *rand.Rand, depth int) any {
	kind := r.IntN(4)
	if depth == 0 {
		kind = 0
	}
	switch kind {
	case 1:
		object := map[string]any{}
		for range r.IntN(3) {
			object[string(rune('a'+r.IntN(3)))] = randomValue(r, depth-1)
		}
		return object
	case 2, 3:
		list := []any{}
		for range r.IntN(5) {
			list = append(list, randomValue(r, depth-1))
		}
		return list
	}
	return float64(r.IntN(3))
}

func decoded(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
