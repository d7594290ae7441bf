package inject

import (
	"encoding/json"
	"strings"
)

// Operation is one step of a JSON patch (RFC 6902).
type Operation struct {
	Op    string          `json:"op"` // add, replace or remove
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value,omitempty"`
}

// Patch returns operations as the JSON patch document that admission answers with.
// Values are taken as they are: they were rendered once and need no second look.
func Patch(ops []Operation) ([]byte, error) {
	size := 2
	for _, op := range ops {
		size += len(op.Path) + len(op.Value) + 40
	}
	b := append(make([]byte, 0, size), '[')
	for i, op := range ops {
		if i > 0 {
			b = append(b, ',')
		}
		path, err := json.Marshal(op.Path)
		if err != nil {
			return nil, err
		}
		b = append(append(b, `{"op":"`...), op.Op...)
		b = append(append(b, `","path":`...), path...)
		if op.Value != nil {
			b = append(append(b, `,"value":`...), op.Value...)
		}
		b = append(b, '}')
	}
	return append(b, ']'), nil
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// pointer returns the JSON pointer (RFC 6901) of member names, each escaped.
func pointer(members ...string) string {
	var b strings.Builder
	for _, m := range members {
		b.WriteByte('/')
		b.WriteString(pointerEscapes.Replace(m))
	}
	return b.String()
}
