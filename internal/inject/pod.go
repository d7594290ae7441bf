package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Pod is what injection needs to know of a pod. [ParsePod] makes one, so that the
// paths that a patch is built on exist in the document.
type Pod struct {
	raw  []byte // the document
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
		OwnerReferences []owner           `json:"ownerReferences"`
	}
	owner struct {
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		Controller bool   `json:"controller"`
	}
	spec struct {
		HostNetwork      bool               `json:"hostNetwork"`
		OS               named              `json:"os"`
		NodeName         string             `json:"nodeName"`
		NodeSelector     map[string]string  `json:"nodeSelector"`
		Affinity         json.RawMessage    `json:"affinity"`
		Tolerations      json.RawMessage    `json:"tolerations"`
		Resources        json.RawMessage    `json:"resources"`
		SecurityContext  podSecurityContext `json:"securityContext"`
		Containers       []container        `json:"containers"`
		InitContainers   []container        `json:"initContainers"`
		Volumes          []named            `json:"volumes"`
		ImagePullSecrets []named            `json:"imagePullSecrets"`
	}
	named struct {
		Name string `json:"name"`
	}
	container struct {
		Name            string                 `json:"name"`
		RestartPolicy   string                 `json:"restartPolicy"`
		Ports           []corev1.ContainerPort `json:"ports"`
		SecurityContext runAs                  `json:"securityContext"`
		VolumeMounts    []named                `json:"volumeMounts"`
		ReadinessProbe  *corev1.Probe          `json:"readinessProbe"`
		LivenessProbe   *corev1.Probe          `json:"livenessProbe"`
		StartupProbe    *corev1.Probe          `json:"startupProbe"`
		Lifecycle       *corev1.Lifecycle      `json:"lifecycle"`
	}
	podSecurityContext struct {
		runAs
		FSGroup            *int64  `json:"fsGroup"`
		SupplementalGroups []int64 `json:"supplementalGroups"`
	}
	runAs struct {
		User         *int64 `json:"runAsUser"`
		Group        *int64 `json:"runAsGroup"`
		Privileged   bool   `json:"privileged"`
		Capabilities struct {
			Add []string `json:"add"`
		} `json:"capabilities"`
	}
)

// maxValues bounds the names and values in a pod, as commas and colons count them.
// Each may take two bytes to send and a hundred to hold, so a pod made to that end
// would fill all our memory; one that somebody wrote has some thousands.
const maxValues = 1 << 16

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
	return &Pod{raw: raw, meta: *doc.Metadata, spec: *doc.Spec}, nil
}

// Name returns the pod's name, or the beginning of the name that it will get.
func (p *Pod) Name() string {
	if p.meta.Name != "" {
		return p.meta.Name
	}
	return p.meta.GenerateName
}

// hasResources reports whether the pod has resources as a whole, which its containers
// may not exceed together.
func (p *Pod) hasResources() bool {
	switch string(p.spec.Resources) {
	case "", "null", "{}":
		return false
	}
	return true
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

// own reports whether a container of that name is one that injection adds.
func own(name string) bool { return name == mesh.ProxyContainer || name == mesh.InitContainer }

// maxRefusals bounds how many reasons a message lists.
const maxRefusals = 10

func escapes(id int64, what string) string {
	return fmt.Sprintf("%d is the %s of the sidecar, and its traffic is not captured", id, what)
}

// checkPod comes after overrides are taken out, which have rules of their own.
func checkPod(e *edit) {
	if err := e.pod.check(e.options.proxyUser()); err != nil {
		e.fail(err)
	}
	e.checkMounts()
	if e.options.capture.mode == mesh.TPROXYMode {
		e.checkGroups()
	}
}

// checkMounts keeps the sidecar's volumes from containers that no overlay gives them to:
// they hold its keys and what it does.
func (e *edit) checkMounts() {
	e.pod.containers(func(list string, i int, c *container) {
		for j, m := range c.VolumeMounts {
			if isSidecarVolume(m.Name) && !slices.ContainsFunc(e.chosen, func(o overlay) bool { return o.mounts(c.Name, m.Name) }) {
				e.refuse(ReservedName, fmt.Sprintf("spec.%s[%d].volumeMounts[%d].name", list, i, j),
					"%s is an injected volume, and only overlays of the operator's share it", m.Name)
			}
		}
	})
}

// checkGroups looks at the groups besides the own one. A member may give a file to the
// group and have it run as that, so where the group is what capture leaves alone, so is
// whoever is in it.
func (e *edit) checkGroups() {
	sc := e.pod.spec.SecurityContext
	if sc.FSGroup != nil && *sc.FSGroup == mesh.ProxyUID {
		e.refuse(ProxyUser, "spec.securityContext.fsGroup", "%s", escapes(mesh.ProxyUID, "group"))
	}
	if i := slices.Index(sc.SupplementalGroups, mesh.ProxyUID); i >= 0 {
		e.refuse(ProxyUser, fmt.Sprintf("spec.securityContext.supplementalGroups[%d]", i), "%s", escapes(mesh.ProxyUID, "group"))
	}
}

// check refuses what the sidecar could not live beside. Every reason is reported,
// and from the eleventh on their number. The user that an image names for itself is
// not seen here; user is the one that the proxy runs as.
func (p *Pod) check(user int64) error {
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
		for _, id := range []struct {
			what, field string
			of, pods    *int64
			proxys      int64
		}{
			{"user", "runAsUser", c.SecurityContext.User, p.spec.SecurityContext.User, user},
			{"group", "runAsGroup", c.SecurityContext.Group, p.spec.SecurityContext.Group, mesh.ProxyUID},
		} {
			proxys := func(n *int64) bool { return n != nil && (*n == mesh.ProxyUID || *n == id.proxys) }
			switch {
			case id.of != nil:
				if proxys(id.of) {
					refuse(ProxyUser, escapes(*id.of, id.what), "spec.%s[%d].securityContext.%s", list, i, id.field)
				}
			case proxys(id.pods):
				refuse(ProxyUser, escapes(*id.pods, id.what)+"; container "+quote(c.Name)+" would run as it", "spec.securityContext.%s", id.field)
			}
		}
	})
	for i, v := range p.spec.Volumes {
		if isSidecarVolume(v.Name) {
			refuse(ReservedName, v.Name+" is the name of an injected volume", "spec.volumes[%d].name", i)
		}
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}
