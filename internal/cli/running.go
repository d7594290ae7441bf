package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/inject"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// running is a pod that exists.
type running struct {
	raw  []byte // as the API server has it
	meta metav1.ObjectMeta
	pod  *inject.Pod
}

func newRunning(raw []byte) (running, error) {
	r := running{raw: raw}
	var meta metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &meta); err != nil {
		return r, err
	}
	r.meta = meta.ObjectMeta
	var err error
	r.pod, err = inject.ParsePod(raw)
	return r, err
}

// isInjected reports whether a pod carries the record of an injection.
func isInjected(pod []byte) bool {
	var meta metav1.PartialObjectMetadata
	if json.Unmarshal(pod, &meta) != nil {
		return false
	}
	_, ok := meta.Annotations[mesh.Status]
	return ok
}

// created returns the pod as it was sent to be created: without a sidecar, and without
// what came to it since.
func (r running) created() ([]byte, error) {
	raw := r.raw
	if isInjected(raw) {
		var err error
		if raw, err = inject.Strip(raw); err != nil {
			return nil, err
		}
	}
	object, err := document{body: raw}.object()
	if err != nil {
		return nil, err
	}
	delete(object, "status")
	if meta, ok := object["metadata"].(map[string]any); ok {
		for _, name := range []string{
			"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds",
		} {
			delete(meta, name)
		}
		if meta["generateName"] != nil { // the API server chose the name, after the webhooks
			delete(meta, "name")
		}
	}
	if spec, ok := object["spec"].(map[string]any); ok {
		delete(spec, "nodeName") // which the scheduler chose
		delete(spec, "ephemeralContainers")
	}
	return json.Marshal(object)
}

// compare says how the pod stands to what it would be today. The error is of settings
// that cannot be read.
func (r running) compare(j judgement) now {
	n := now{Sidecar: r.pod.Has()}
	record, recorded := r.meta.Annotations[mesh.Status]
	if recorded {
		var made struct{ Hash, Revision string }
		if json.Unmarshal([]byte(record), &made) == nil {
			n.Configuration, n.Revision = made.Hash, made.Revision
		}
	}
	switch {
	case j.outcome == undecided:
		n.Why = "what it would be today cannot be said: " + j.why
		return n
	case j.outcome == refused:
		n.Why = "today it would be refused: " + strings.ReplaceAll(j.why, "\n", "; ")
	case j.outcome == leftOut && n.Sidecar:
		n.Why = "today it would be left out: " + j.why
	case j.outcome == leftOut:
	case !n.Sidecar:
		n.Why = "it was made before the namespace was labelled, or while the webhook was not there"
	case !recorded:
		n.Why = "its container " + mesh.ProxyContainer + " was not put there by injection: annotation " + mesh.Status + " is missing"
	default:
		r.outdated(&n, j)
	}
	if n.Differs = n.Why != ""; n.Differs && j.outcome != refused {
		n.Do = r.anew()
	}
	return n
}

// outdated holds the sidecar that the pod has to the one that it would get.
func (r running) outdated(n *now, j judgement) {
	old, err := inject.Outdated(r.pod, j.at.Namespace, j.settings)
	switch {
	case err != nil:
		n.Why = "whether it is of today's configuration cannot be said: " + oneLine(err)
	case old:
		n.Why = "of another configuration than today's, " + j.Injection.Hash
		if n.Difference, err = inject.Compare(r.raw, j.at, j.settings); err != nil {
			n.Why += "; how it differs cannot be said: " + oneLine(err)
		}
	}
}

// owner returns what a person would look at to see about the pod, as kubectl takes it:
// the Deployment behind its ReplicaSet, or its controller, or "" where it stands alone.
func (r running) owner() string {
	controller := metav1.GetControllerOfNoCopy(&r.meta)
	if controller == nil {
		return ""
	}
	kind, name := controller.Kind, controller.Name
	if hash := r.meta.Labels["pod-template-hash"]; kind == "ReplicaSet" && hash != "" {
		if of, ok := strings.CutSuffix(name, "-"+hash); ok {
			kind, name = "Deployment", of
		}
	}
	return strings.ToLower(kind) + "/" + name
}

// anew says how the pod comes to be made again.
func (r running) anew() string {
	owner := r.owner()
	of, _, _ := strings.Cut(owner, "/")
	known := slices.IndexFunc(kinds(), func(k kind) bool { return k.spoken[0] == of })
	switch {
	case owner == "":
		return "delete the pod and create it again: nothing makes another"
	case of == "job":
		return fmt.Sprintf("let %s end, or delete it and create it again", owner)
	case known >= 0 && kinds()[known].restart:
		return fmt.Sprintf("kubectl rollout restart %s -n %s", owner, cmp.Or(r.meta.Namespace, "default"))
	}
	return fmt.Sprintf("kubectl delete pod %s -n %s: %s makes another", r.meta.Name, cmp.Or(r.meta.Namespace, "default"), owner)
}
