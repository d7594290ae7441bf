package inject

import (
	"slices"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	kjson "sigs.k8s.io/json"
)

// document is the pod with the operations so far.
func (e *edit) document() (map[string]any, error) {
	raw, err := Apply(e.pod.raw, e.ops)
	if err != nil {
		return nil, err
	}
	doc := map[string]any{}
	return doc, kjson.UnmarshalCaseSensitivePreserveInts(raw, &doc)
}

// Apply returns a document with operations applied.
func Apply(doc []byte, ops []Operation) ([]byte, error) {
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

// mergeKeys are the members by which elements of lists are known, as in strategic merges.
var mergeKeys = []string{"name", "mountPath", "containerPort", "devicePath", "ip"}

// ordered returns a merged document with the elements of its lists in the order that
// they had before, and those that are new behind them: the merge has them in the
// patch's order, and the order of containers decides which starts first.
func ordered(before, after any) any {
	switch after := after.(type) {
	case map[string]any:
		was, _ := before.(map[string]any)
		for name, member := range after {
			after[name] = ordered(was[name], member)
		}
	case []any:
		was, _ := before.([]any)
		places, ok := placesOf(was)
		if _, unique := placesOf(after); !ok || !unique {
			return after
		}
		kept, added := make([]any, len(was)), []any(nil)
		for _, element := range after {
			if i, ok := places[keyOf(element)]; ok {
				kept[i] = ordered(was[i], element)
			} else {
				added = append(added, element)
			}
		}
		kept = slices.DeleteFunc(kept, func(element any) bool { return element == nil })
		return append(kept, added...)
	}
	return after
}

// placesOf returns where each element stands by its key; not ok where they have none,
// or share one.
func placesOf(list []any) (places map[any]int, ok bool) {
	places = make(map[any]int, len(list))
	for i, element := range list {
		key := keyOf(element)
		if _, twice := places[key]; key == nil || twice {
			return nil, false
		}
		places[key] = i
	}
	return places, true
}

func keyOf(element any) any {
	e, _ := element.(map[string]any)
	for _, member := range mergeKeys {
		if key, ok := e[member]; ok && key != nil {
			switch key.(type) {
			case string, int64, float64:
				return key
			}
		}
	}
	return nil
}
