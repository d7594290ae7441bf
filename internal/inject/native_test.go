package inject

import (
	"testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestNative asks where a pod may land, of a cluster with two old nodes.
func TestNative(t *testing.T) {
	older := []mesh.Node{
		{Name: "old", Minor: 32, Labels: map[string]string{"pool": "legacy", "zone": "a"}},
		{Name: "kept", Minor: 30, Labels: map[string]string{"pool": "kept", "zone": "b"}, Taints: []mesh.Taint{
			{Key: "only", Value: "batch", Effect: "NoSchedule"}, {Key: "rather-not", Effect: "PreferNoSchedule"},
		}},
	}
	for spec, want := range map[string]bool{
		"":                              false,
		"nodeName: old, ":               false,
		"nodeName: new, ":               true,
		"nodeSelector: {pool: new},":    true,
		"nodeSelector: {pool: legacy},": false,
		"nodeSelector: {zone: b},":      true, // tainted
		"nodeSelector: {zone: b}, tolerations: [{key: only, operator: Equal, value: batch, effect: NoSchedule}],":                                                                 false,
		"nodeSelector: {zone: b}, tolerations: [{key: only, operator: Equal, value: other, effect: NoSchedule}],":                                                                 true,
		"nodeSelector: {zone: b}, tolerations: [{operator: Exists}],":                                                                                                             false,
		"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [new]}]}]}}},":      true,
		"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [new]}]}]}}},":  true,
		"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: Exists}]}]}}},":                 false,
		"affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: pool, operator: In, values: [new]}]}}]}},": false,
		"affinity: {podAntiAffinity: {}}, nodeSelector: {pool: new},":                                                                                                             true,
	} {
		p := pod(t, "{metadata: {}, spec: {"+spec+" containers: [{name: a}]}}")
		got, why, err := isNative(p, builtin(), older)
		if err != nil || got != want || why == "" {
			t.Errorf("%s: %v %q %v, want %v", spec, got, why, err, want)
		}
	}
	if _, _, err := isNative(pod(t, "{metadata: {}, spec: {affinity: 7, containers: [{name: a}]}}"), builtin(), older); err == nil {
		t.Error("an affinity that is none is taken")
	}
}
