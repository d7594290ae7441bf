package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TestVocabularyHasCases: each annotation and label of the table that means something on
// a pod makes a difference in a case that is not refused. Under a name that means nothing
// the same value would come to something else; or else injection has written it.
func TestVocabularyHasCases(t *testing.T) {
	// The webhook's selectors read it, and choose who injects.
	const selectsOnly = mesh.RevisionLabel
	all := cases(t)
	shown := func(kind, name string, written bool) bool {
		return slices.ContainsFunc(all, func(c testCase) bool { return c.shows(t, kind, name, written) })
	}
	for _, a := range mesh.Annotations() {
		if !shown("annotations", a.Name, a.Written) {
			t.Errorf("annotation %s makes no difference in any case", a.Name)
		}
	}
	for _, l := range mesh.Labels() {
		if strings.Contains(l.On, "pod") && l.Name != selectsOnly && !shown("labels", l.Name, l.Written) {
			t.Errorf("label %s makes no difference in any case", l.Name)
		}
	}
}

// shows reports whether an entry of the pod's annotations or labels counts in the case.
func (c testCase) shows(t *testing.T, kind, name string, written bool) bool {
	t.Helper()
	entries := func(pod map[string]any) map[string]any {
		meta, _ := pod["metadata"].(map[string]any)
		all, _ := meta[kind].(map[string]any)
		return all
	}
	with, err := c.inject(c.pod)
	if err != nil {
		return false
	}
	pod := object(t, c.pod)
	value, ok := entries(pod)[name]
	if !ok {
		return written && with.skipped == "" && entries(object(t, with.pod))[name] != nil
	}
	delete(entries(pod), name)
	entries(pod)["example.com/nothing"] = value
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	without, err := c.inject(raw)
	return err != nil || outcomeOf(t, without) != outcomeOf(t, with)
}

// outcomeOf spells what comes of a pod, but for what it was itself.
func outcomeOf(t *testing.T, r result) string {
	t.Helper()
	patch, err := Patch(r.Ops)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %q %q %s", r.skipped, r.Warnings, r.Holes, patch)
}
