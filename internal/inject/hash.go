package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	kjson "sigs.k8s.io/json"
)

// hash names the effective configuration: the sidecar, and what changes it for this pod.
func (e *edit) hash() string {
	o := e.options
	if len(e.chosen) == 0 && e.overrides.empty() && o.rewriteProbes && o.metrics.merge == unsaid {
		return e.sidecar.hash
	}
	sum := sha256.New()
	fmt.Fprint(sum, e.sidecar.hash, o.rewriteProbes, o.metrics.merge)
	for _, o := range e.chosen {
		sum.Write([]byte("\x00" + o.name + "\x00" + o.hash))
	}
	for _, raw := range slices.Concat(e.overrides.Containers, e.overrides.InitContainers) {
		sum.Write([]byte{1})
		sum.Write(authored(raw))
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// authored spells what the author of an override wrote: of what the API server filled in,
// the mount of the pod's token has another name in every pod.
func authored(raw json.RawMessage) []byte {
	fields := map[string]any{}
	if kjson.UnmarshalCaseSensitivePreserveInts(raw, &fields) != nil {
		return raw
	}
	dropFilledIn(fields)
	out, err := json.Marshal(fields)
	if err != nil {
		return raw
	}
	return out
}

// canonical spells equal JSON alike: the API server sends members in the order of its
// types, a file has them in its author's.
func canonical(raw json.RawMessage) []byte {
	var v any
	if kjson.UnmarshalCaseSensitivePreserveInts(raw, &v) != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}
