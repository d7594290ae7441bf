package inject

import (
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	kjson "sigs.k8s.io/json"
)

// document is the pod with the operations so far.
func (e *edit) document() (map[string]any, error) {
	raw, err := apply(e.pod.raw, e.ops)
	if err != nil {
		return nil, err
	}
	doc := map[string]any{}
	return doc, kjson.UnmarshalCaseSensitivePreserveInts(raw, &doc)
}

// apply returns a document with operations applied.
func apply(doc []byte, ops []Operation) ([]byte, error) {
	raw, err := Patch(ops)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		return nil, err
	}
	return patch.Apply(doc)
}

// clone copies a document, which merging would otherwise write into.
func clone(v map[string]any) map[string]any {
	copied, _ := cloneValue(v).(map[string]any)
	return copied
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, member := range v {
			out[key] = cloneValue(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			out[i] = cloneValue(member)
		}
		return out
	}
	return v
}
