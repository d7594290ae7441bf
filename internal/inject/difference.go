package inject

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// difference returns the operations that turn one document into another: members of
// objects in the order of their names, elements of lists by position where the list
// only grew, whatever else as a whole. What a list has in common at its beginning and at
// its end is left alone, since merging puts what is new at either.
func difference(path string, before, after any) []Operation {
	if reflect.DeepEqual(before, after) {
		return nil
	}
	switch is := after.(type) {
	case map[string]any:
		if was, ok := before.(map[string]any); ok {
			return differentMembers(path, was, is)
		}
	case []any:
		if was, ok := before.([]any); ok && len(is) >= len(was) && len(was) > 0 {
			return differentElements(path, was, is)
		}
	}
	return []Operation{{Op: "replace", Path: path, Value: encoded(after)}}
}

func differentElements(path string, before, after []any) []Operation {
	begin, end := 0, len(before)
	for begin < end && reflect.DeepEqual(before[begin], after[begin]) {
		begin++
	}
	grown := len(after) - len(before)
	for end > begin && reflect.DeepEqual(before[end-1], after[end-1+grown]) {
		end--
	}
	var ops []Operation
	for i, element := range after[begin : end+grown] {
		i += begin
		at := path + "/" + strconv.Itoa(i)
		if i < end {
			ops = append(ops, difference(at, before[i], element)...)
		} else {
			ops = append(ops, Operation{Op: "add", Path: at, Value: encoded(element)})
		}
	}
	return ops
}

func differentMembers(path string, before, after map[string]any) []Operation {
	var ops []Operation
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[name]; !ok {
			ops = append(ops, Operation{Op: "remove", Path: path + pointer(name)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		at := path + pointer(name)
		if was, ok := before[name]; ok {
			ops = append(ops, difference(at, was, after[name])...)
		} else {
			ops = append(ops, Operation{Op: "add", Path: at, Value: encoded(after[name])})
		}
	}
	return ops
}

// encoded returns a part of a document, which came from JSON and so goes back.
func encoded(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return raw
}
