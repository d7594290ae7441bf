package inject

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// TrustRule says what pods of some namespaces may ask for. A list that is absent means
// the default given; an empty one, nothing. Patterns are names, with * at the end for
// whatever follows.
//
// In namespaces labelled garrison.io/capture=strict, what takes traffic out of the
// capture must be named: "*" by itself does not grant it.
type TrustRule struct {
	Namespaces  metav1.LabelSelector `json:"namespaces"`  // by labels; {}: every one
	Annotations *[]string            `json:"annotations"` // default: all
	Images      *[]string            `json:"images"`      // of the sidecar, besides Garrison's own; default: none
	Volumes     *[]string            `json:"volumes"`     // kinds in userVolume; default: all but hostPath
	Overrides   *[]string            `json:"overrides"`   // <container>.<field>, such as istio-proxy.args; default: all but images, which Images grants
}

type trustRule struct {
	namespaces                              labels.Selector
	annotations, images, volumes, overrides patterns
}

// patterns are names that are granted.
type patterns []string

func (p patterns) grant(name string, named bool) bool {
	return slices.ContainsFunc(p, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		switch {
		case pattern == "*":
			return !named
		case open:
			return strings.HasPrefix(name, prefix)
		}
		return pattern == name
	})
}

// withoutGrant holds for namespaces that no rule matches.
func withoutGrant() trustRule {
	return trustRule{annotations: patterns{"*"}, volumes: patterns{notHostPath}, overrides: patterns{"*"}}
}

// notHostPath stands for every kind of volume but the one that reaches into the node.
const (
	notHostPath = "!hostPath"
	hostPath    = "hostPath"
)

func compileTrust(rules []TrustRule) ([]trustRule, error) {
	var all []trustRule
	for i, r := range rules {
		selector, err := metav1.LabelSelectorAsSelector(&r.Namespaces)
		if err != nil {
			return nil, fmt.Errorf("trust[%d].namespaces: %w", i, err)
		}
		compiled := withoutGrant()
		compiled.namespaces = selector
		for _, list := range []struct {
			name string
			from *[]string
			to   *patterns
		}{
			{"annotations", r.Annotations, &compiled.annotations},
			{"images", r.Images, &compiled.images},
			{"volumes", r.Volumes, &compiled.volumes},
			{"overrides", r.Overrides, &compiled.overrides},
		} {
			if list.from == nil {
				continue
			}
			for _, pattern := range *list.from {
				if pattern == "" || strings.Contains(strings.TrimSuffix(pattern, "*"), "*") {
					return nil, fmt.Errorf("trust[%d].%s: %q is no name, with * at most at its end", i, list.name, pattern)
				}
			}
			*list.to = *list.from
		}
		all = append(all, compiled)
	}
	return all, nil
}

// trusts returns the rule that holds for a namespace.
func (s Settings) trusts(ns mesh.Namespace) trustRule {
	for _, rule := range s.trust {
		if rule.namespaces.Matches(labels.Set(ns.Labels)) {
			return rule
		}
	}
	return withoutGrant()
}

func strict(ns mesh.Namespace) bool { return ns.Labels[mesh.CaptureLabel] == mesh.CaptureStrict }

// Hole is something that a pod is granted at the cost of what the mesh promises.
type Hole struct {
	From Place
	What string // in words
}

// String is how explain lists it.
func (h Hole) String() string { return h.What + " (" + string(h.From) + ")" }

// granted holds what a pod asks for against what its namespace may, and returns the
// holes that are left. The error is one [*Refusal] or several.
func (e *edit) granted() {
	rule, strict := e.settings.trusts(e.ns), strict(e.ns)
	_, written := trio(e.pod.meta.Annotations)
	for i := range e.settings.table {
		if _, ok := e.pod.meta.Annotations[e.settings.table[i].Name]; ok {
			written = append(written, e.settings.table[i].Name)
		}
	}
	for _, name := range written {
		if !rule.annotations.grant(name, false) {
			e.refuse(NotGranted, annotationAt(name, OnPod, ""), "the operator does not allow this annotation in namespace %s", quote(e.ns.Name))
		}
	}
	c, port := e.options.capture, e.options.statusPort()
	for _, o := range []struct {
		open bool
		name string
		what string
	}{
		{c.mode == mesh.NoMode, mesh.InterceptionMode, "no traffic is captured"},
		{c.includeRanges != everything, mesh.IncludeOutboundIPRanges, fmt.Sprintf("outgoing connections are captured to %q only", c.includeRanges)},
		{c.excludeRanges != "", mesh.ExcludeOutboundIPRanges, fmt.Sprintf("outgoing connections to %s are not captured", c.excludeRanges)},
		{c.excludeOut != "", mesh.ExcludeOutboundPorts, fmt.Sprintf("outgoing connections to ports %s are not captured", c.excludeOut)},
		{c.includeInbound != everything, mesh.IncludeInboundPorts, fmt.Sprintf("incoming connections are captured at ports %q only", c.includeInbound)},
		{c.excludeIn != "", mesh.ExcludeInboundPorts, fmt.Sprintf("incoming connections at ports %s are not captured", c.excludeIn)},
		{port != mesh.AgentPort, e.statusPortName(), fmt.Sprintf("incoming connections at port %d, the agent's, are not captured", port)},
		{len(e.options.mounts) > 0, mesh.UserVolumeMount, "the sidecar mounts what the pod's author chose"},
	} {
		if !o.open {
			continue
		}
		from := e.from(o.name)
		if strict && from != OfMesh && !rule.annotations.grant(o.name, true) {
			e.refuse(StrictCapture, annotationAt(o.name, from, e.ns.Name),
				"%s, and namespace %s is labelled %s=%s and no trust rule names this", o.what, quote(e.ns.Name), mesh.CaptureLabel, mesh.CaptureStrict)
			continue
		}
		e.hole(from, o.what)
	}
	if image := e.settings.imageFor(e.options); e.options.image != "" && e.from(mesh.ProxyImage) != OfMesh {
		e.grantImage(rule, annotationAt(mesh.ProxyImage, e.from(mesh.ProxyImage), e.ns.Name), image, e.from(mesh.ProxyImage))
	}
	for _, v := range e.options.volumes {
		for _, kind := range volumeKinds(v) {
			if !rule.volumes.grant(kind, false) && (kind == hostPath || !slices.Contains(rule.volumes, notHostPath)) {
				e.refuse(NotGranted, annotationAt(mesh.UserVolume, OnPod, ""),
					"volume %s is a %s, which the operator does not allow in namespace %s", quote(v.Name), kind, quote(e.ns.Name))
			} else if kind == hostPath {
				e.hole(OnPod, fmt.Sprintf("volume %s reaches the node's %s", v.Name, v.HostPath.Path))
			}
		}
	}
}

// statusPortName returns the annotation that the agent's port follows from.
func (e *edit) statusPortName() string {
	if e.options.status == 0 {
		return mesh.ProxyConfig
	}
	return mesh.StatusPort
}

// rights looks for containers that may undo the capture: they share the pod's network.
func (e *edit) rights() {
	if e.options.capture.mode == mesh.NoMode {
		return
	}
	e.pod.containers(func(list string, i int, c *container) {
		var may []string
		if c.SecurityContext.Privileged {
			may = append(may, "privileged")
		}
		for _, capability := range c.SecurityContext.Capabilities.Add {
			if undoesCapture(capability) {
				may = append(may, capability)
			}
		}
		if may == nil {
			return
		}
		what := fmt.Sprintf("container %s may undo the capture: %s", cut(c.Name), strings.Join(may, ", "))
		if strict(e.ns) {
			e.refuse(StrictCapture, fmt.Sprintf("spec.%s[%d].securityContext", list, i), "%s, and namespace %s is labelled %s=%s",
				what, quote(e.ns.Name), mesh.CaptureLabel, mesh.CaptureStrict)
			return
		}
		e.hole(OnPod, what)
	})
}

// tlsMode looks at what the pod tells those who call it.
func (e *edit) tlsMode() {
	mode, said := e.pod.meta.Labels[mesh.TLSModeLabel]
	if !said || mode == mesh.TLSModeIstio {
		return
	}
	const what = "callers are told to use plain text"
	if strict(e.ns) {
		e.refuse(StrictCapture, "metadata.labels["+mesh.TLSModeLabel+"]", "%s, and namespace %s is labelled %s=%s",
			what, quote(e.ns.Name), mesh.CaptureLabel, mesh.CaptureStrict)
		return
	}
	e.hole(OnPod, what+" by label "+mesh.TLSModeLabel)
}

// undoesCapture reports whether a capability is enough to change the pod's network, to act
// as its proxy, or to reach the node's kernel. Container runtimes take any case.
func undoesCapture(capability string) bool {
	switch strings.TrimPrefix(strings.ToUpper(capability), "CAP_") {
	case "ALL", "BPF", "NET_ADMIN", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO":
		return true
	}
	return false
}

// from returns where the value of an annotation that is not as built in was written.
func (e *edit) from(name string) Place {
	for i := range e.settings.table {
		if a := &e.settings.table[i]; a.Name == name {
			if _, from, found := lookup(a, e.pod, e.ns); found {
				return from
			}
		}
	}
	return OfMesh
}

// grantImage refuses an image that is neither Garrison's own nor allowed.
func (e *edit) grantImage(rule trustRule, field, image string, from Place) {
	switch {
	case image == e.settings.image, image == e.settings.debugImage:
	case rule.images.grant(image, false):
		e.hole(from, "the sidecar runs image "+image)
	default:
		e.refuse(NotGranted, field, "image %s is not Garrison's, and the operator does not allow it in namespace %s", quote(image), quote(e.ns.Name))
	}
}

// hole notes one. A pod can have as many as it has containers.
func (e *edit) hole(from Place, what string) {
	if len(e.holes) < maxHoles {
		e.holes = append(e.holes, Hole{From: from, What: what})
	}
}

const maxHoles = 64
