package inject

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// advise tells the pod's author what they would otherwise find out the hard way.
func (e *edit) advise() {
	for _, key := range e.options.config.ignored {
		e.warn("annotation %s: %s has no effect in Garrison", mesh.ProxyConfig, cut(key))
	}
	if e.native {
		return
	}
	if e.options.capture.mode != mesh.NoMode {
		for _, c := range e.pod.spec.InitContainers {
			switch {
			case strict(e.ns):
				e.warn("init container %s runs behind the capture and before the proxy, so it reaches nothing: %s", cut(c.Name), e.why)
			case c.RestartPolicy == string(corev1.ContainerRestartPolicyAlways):
				e.warn("init container %s starts before the capture, and what it opens until then is not captured: %s", cut(c.Name), e.why)
				e.hole(OnPod, "init container "+cut(c.Name)+" starts before the capture")
			default:
				e.warn("init container %s runs before the capture, so its traffic is in plain text: %s", cut(c.Name), e.why)
				e.hole(OnPod, "init container "+cut(c.Name)+" runs before the capture")
			}
		}
	}
	for _, o := range e.pod.meta.OwnerReferences {
		if o.Kind == "Job" && o.Controller {
			e.warn("the Job will not finish while the sidecar runs, which it does as a plain container: %s", e.why)
		}
	}
}

// preflight looks at what is added as pod security admission will.
func (e *edit) preflight(added []json.RawMessage) {
	warning, err := podSecurity(e.settings.standards, e.ns, added, e.sidecar.volumes)
	if err != nil {
		e.fail(err)
	} else if warning != "" {
		e.warn("%s", warning)
	}
}

// Ignored returns warnings of the pod's annotations that belong to Istio's or Garrison's
// vocabulary but mean nothing to this injector: an exclusion that is silently not made is
// found out the hard way.
func Ignored(pod *Pod) []string {
	var warnings []string
	for name := range pod.meta.Annotations {
		domain, rest, _ := strings.Cut(name, "/")
		if domain = "." + domain; rest == "" || !strings.HasSuffix(domain, ".istio.io") && !strings.HasSuffix(domain, ".garrison.io") {
			continue
		}
		if !isKnown(name) {
			warnings = append(warnings, "annotation "+cut(name)+" is not known to Garrison and has no effect")
		}
	}
	slices.Sort(warnings)
	return warnings[:min(len(warnings), maxRefusals)]
}

func isKnown(name string) bool {
	_, read := parsers[name]
	switch name {
	case mesh.InjectLabel, mesh.Status, mesh.Overrides, mesh.RevisionLabel:
		return true
	}
	return read
}
