package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Pod is what injection needs to know of a pod. Only [ParsePod] makes one, so the
// paths that a patch is built on exist in the document.
type Pod struct {
	meta metadata
	spec spec
}

// The parts of a pod that decide anything. Decoding only these costs half of
// decoding all of it, and a field that no decision reads cannot be lost.
type (
	metadata struct {
		Name            string            `json:"name"`
		GenerateName    string            `json:"generateName"`
		Namespace       string            `json:"namespace"`
		Labels          map[string]string `json:"labels"`
		Annotations     map[string]string `json:"annotations"`
		OwnerReferences []struct {
			Kind       string `json:"kind"`
			Name       string `json:"name"`
			Controller bool   `json:"controller"`
		} `json:"ownerReferences"`
	}
	spec struct {
		HostNetwork     bool        `json:"hostNetwork"`
		SecurityContext runAs       `json:"securityContext"`
		Containers      []container `json:"containers"`
		InitContainers  []container `json:"initContainers"`
		Volumes         []struct {
			Name string `json:"name"`
		} `json:"volumes"`
	}
	container struct {
		Name            string                 `json:"name"`
		Ports           []corev1.ContainerPort `json:"ports"`
		SecurityContext runAs                  `json:"securityContext"`
		ReadinessProbe  *corev1.Probe          `json:"readinessProbe"`
		LivenessProbe   *corev1.Probe          `json:"livenessProbe"`
		StartupProbe    *corev1.Probe          `json:"startupProbe"`
	}
	runAs struct {
		User *int64 `json:"runAsUser"`
	}
)

// maxValues bounds the names and values in a pod, as commas and colons count them.
// Each may take two bytes to send and a hundred to hold, so a pod made to that end
// would fill all our memory; one that somebody wrote has some thousands.
const maxValues = 1 << 17

// ParsePod reads a pod's JSON as the API server writes it: names of fields are
// case-sensitive, unknown fields are passed over. Metadata, a specification and
// at least one container must be there.
func ParsePod(raw []byte) (*Pod, error) {
	if n := bytes.Count(raw, []byte(",")) + bytes.Count(raw, []byte(":")); n > maxValues {
		return nil, &Refusal{Reason: Malformed, Field: "pod", Problem: fmt.Sprintf("%d names and values, more than %d", n, maxValues)}
	}
	var doc struct {
		Metadata *metadata `json:"metadata"`
		Spec     *spec     `json:"spec"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &doc); err != nil {
		var mistyped *json.UnmarshalTypeError
		if errors.As(err, &mistyped) && mistyped.Field != "" {
			return nil, &Refusal{Reason: Malformed, Field: mistyped.Field, Problem: "a JSON " + cut(mistyped.Value) + " cannot stand here"}
		}
		return nil, &Refusal{Reason: Malformed, Field: "pod", Problem: cut(strings.TrimPrefix(err.Error(), "json: "))}
	}
	switch {
	case doc.Metadata == nil:
		return nil, &Refusal{Reason: Malformed, Field: "metadata", Problem: "missing"}
	case doc.Spec == nil:
		return nil, &Refusal{Reason: Malformed, Field: "spec", Problem: "missing"}
	case len(doc.Spec.Containers) == 0:
		return nil, &Refusal{Reason: Malformed, Field: "spec.containers", Problem: "a pod needs at least one"}
	}
	return &Pod{meta: *doc.Metadata, spec: *doc.Spec}, nil
}

// Name returns the pod's name, or the beginning of the name that it will get.
func (p *Pod) Name() string {
	if p.meta.Name != "" {
		return p.meta.Name
	}
	return p.meta.GenerateName
}

// containers calls see for each container with the list it stands in.
func (p *Pod) containers(see func(list string, i int, c *container)) {
	for i := range p.spec.Containers {
		see("containers", i, &p.spec.Containers[i])
	}
	for i := range p.spec.InitContainers {
		see("initContainers", i, &p.spec.InitContainers[i])
	}
}

// status is the value of the status annotation, in Istio's form; Hash is ours.
type status struct {
	InitContainers   []string `json:"initContainers"`
	Containers       []string `json:"containers"`
	Volumes          []string `json:"volumes"`
	ImagePullSecrets []string `json:"imagePullSecrets"`
	Revision         string   `json:"revision"`
	Hash             string   `json:"hash,omitempty"` // of the configuration, see [Settings.Hash]
}

// injected reports whether the pod carries the sidecar that its status annotation
// speaks of. A status left over on a pod without those containers, as when a
// running pod was copied and trimmed by hand, is no injection.
func (p *Pod) injected() (bool, error) {
	value, ok := p.meta.Annotations[mesh.Status]
	if !ok {
		return false, nil
	}
	var s status
	if err := json.Unmarshal([]byte(value), &s); err != nil {
		return false, annotationRefusal(mesh.Status, value, "not the JSON that injection writes: "+strings.TrimPrefix(err.Error(), "json: "))
	}
	listed := slices.Concat(s.InitContainers, s.Containers)
	if !slices.Contains(listed, mesh.ProxyContainer) {
		return false, nil
	}
	for _, name := range listed {
		if !p.has(name) {
			return false, nil
		}
	}
	return true, nil
}

func (p *Pod) has(name string) bool {
	named := func(c container) bool { return c.Name == name }
	return slices.ContainsFunc(p.spec.InitContainers, named) || slices.ContainsFunc(p.spec.Containers, named)
}

// maxRefusals bounds how many reasons a message lists.
const maxRefusals = 10

// check refuses what the sidecar could not live beside. Every reason is reported,
// and from the eleventh on their number. The user that an image names for itself is
// not seen here.
func (p *Pod) check() error {
	var errs []error
	more := 0
	refuse := func(reason Reason, problem, field string, args ...any) {
		if len(errs) == maxRefusals {
			more++
			return
		}
		errs = append(errs, &Refusal{Reason: reason, Field: fmt.Sprintf(field, args...), Problem: problem})
	}
	p.containers(func(list string, i int, c *container) {
		if c.Name == mesh.ProxyContainer || c.Name == mesh.InitContainer {
			refuse(ReservedName, c.Name+" is the name of an injected container", "spec.%s[%d].name", list, i)
		}
		const escapes = "1337 is the user of the sidecar, and its traffic is not captured"
		switch {
		case c.SecurityContext.User != nil:
			if *c.SecurityContext.User == mesh.ProxyUID {
				refuse(ProxyUser, escapes, "spec.%s[%d].securityContext.runAsUser", list, i)
			}
		case p.spec.SecurityContext.User != nil && *p.spec.SecurityContext.User == mesh.ProxyUID:
			refuse(ProxyUser, escapes+"; container "+quote(c.Name)+" would run as it", "spec.securityContext.runAsUser")
		}
	})
	for i, v := range p.spec.Volumes {
		switch v.Name {
		case mesh.EnvoyVolume, mesh.CertVolume, mesh.TokenVolume, mesh.RootVolume:
			refuse(ReservedName, v.Name+" is the name of an injected volume", "spec.volumes[%d].name", i)
		}
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}

// canonicalName names the service that the pod is part of, as Istio guesses it,
// or "" where no guess is a label value.
func (p *Pod) canonicalName() string {
	for _, label := range []string{"app.kubernetes.io/name", "app"} {
		if name := p.meta.Labels[label]; name != "" {
			return labelValue(name)
		}
	}
	return labelValue(p.workload())
}

// canonicalRevision names the version of the service.
func (p *Pod) canonicalRevision() string {
	for _, label := range []string{"app.kubernetes.io/version", "version"} {
		if version := p.meta.Labels[label]; version != "" {
			return labelValue(version)
		}
	}
	return "latest"
}

// A CronJob appends to its name the minute that a Job was due, in decimal.
var cronSuffix = regexp.MustCompile(`-\d{8,10}$`)

// workload guesses what owns the pod without asking the API server: the
// Deployment behind a ReplicaSet, the CronJob behind a Job, else the owner itself.
func (p *Pod) workload() string {
	for _, owner := range p.meta.OwnerReferences {
		switch {
		case !owner.Controller:
			continue
		case owner.Kind == "ReplicaSet":
			if hash := p.meta.Labels["pod-template-hash"]; hash != "" {
				return strings.TrimSuffix(owner.Name, "-"+hash)
			}
		case owner.Kind == "Job":
			return cronSuffix.ReplaceAllString(owner.Name, "")
		}
		return owner.Name
	}
	return strings.TrimSuffix(p.Name(), "-")
}

// labelValue cuts a name to what a label may hold, or returns "".
func labelValue(name string) string {
	if len(name) > validation.LabelValueMaxLength {
		name = strings.TrimRight(name[:validation.LabelValueMaxLength], "-_.")
	}
	if len(validation.IsValidLabelValue(name)) > 0 {
		return ""
	}
	return name
}
