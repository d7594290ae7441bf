package inject

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// options is what the annotations of a pod, of its namespace and of the mesh ask
// for, checked. Each annotation counts where it stands closest to the pod.
type options struct {
	rewriteProbes bool
	resources     resources
	ownResources  bool // of the pod or its namespace, not the mesh's
	image         string
	native        nativeMode
	templates     []string
	config        proxyConfig
	status        uint16 // the agent's port, as the annotation has it; 0: not said
	noOwnProbes   bool
	readiness     readiness
	capture       capture
	metrics       metrics
	volumes       []corev1.Volume
	mounts        []corev1.VolumeMount

	user int64 // that the proxy runs as, and capture leaves alone; 0: [mesh.ProxyUID]

	custom bool // asks for something that the mesh's own sidecar has not
}

// resources are the requests and limits of the sidecar.
type resources struct{ cpu, cpuLimit, memory, memoryLimit resource.Quantity }

// readiness is what may be chosen of the sidecar's own readiness probe.
type readiness struct{ delay, period, failures int32 }

// capture is what traffic goes through the proxy.
type capture struct {
	mode                         string
	includeRanges, excludeRanges list // outbound
	includeOutbound, excludeOut  list // ports
	includeInbound, excludeIn    list // ports
}

// metrics is what the agent gives of others' metrics.
type metrics struct {
	merge   choice
	targets list
}

// choice is a yes, a no, or nothing said.
type choice int8

const (
	unsaid choice = iota
	yes
	no
)

// nativeMode says which kind of container the sidecar is.
type nativeMode int8

const (
	nativeAuto nativeMode = iota
	nativeAlways
	nativeNever
)

// statusPort is the port of the agent that all of the pod goes by.
func (o options) statusPort() uint16 {
	switch {
	case o.status != 0:
		return o.status
	case o.config.statusPort != 0:
		return o.config.statusPort
	}
	return mesh.AgentPort
}

// proxyUser is the user whose traffic is not captured.
func (o options) proxyUser() int64 { return cmp.Or(o.user, mesh.ProxyUID) }

// parser reads one annotation's value. What it keeps that makes another sidecar than
// the mesh's says custom.
type parser struct {
	set    func(*options, string) error
	custom bool
}

// parsers read the annotations that users write. Their names, and what may be
// written, are those of [mesh.Annotations]; a test holds the two together. The
// prometheus.io trio is read in metrics.go, since it has several spellings, and
// [mesh.InjectLabel] by [Decide].
var parsers = map[string]parser{
	mesh.Templates:     {func(o *options, v string) (err error) { o.templates, err = parseTemplates(v); return err }, true},
	mesh.ProxyConfig:   {func(o *options, v string) error { return o.config.parse(v) }, true},
	mesh.NativeSidecar: {func(o *options, v string) (err error) { o.native, err = parseNative(v); return err }, false},

	mesh.ProxyImage:       {func(o *options, v string) (err error) { o.image, err = parseImage(v); return err }, true},
	mesh.ProxyCPU:         {func(o *options, v string) (err error) { o.resources.cpu, err = parseQuantity(v); return err }, true},
	mesh.ProxyCPULimit:    {func(o *options, v string) (err error) { o.resources.cpuLimit, err = parseQuantity(v); return err }, true},
	mesh.ProxyMemory:      {func(o *options, v string) (err error) { o.resources.memory, err = parseQuantity(v); return err }, true},
	mesh.ProxyMemoryLimit: {func(o *options, v string) (err error) { o.resources.memoryLimit, err = parseQuantity(v); return err }, true},
	mesh.UserVolume:       {func(o *options, v string) (err error) { o.volumes, err = parseVolumes(v); return err }, true},
	mesh.UserVolumeMount:  {func(o *options, v string) (err error) { o.mounts, err = parseMounts(v); return err }, true},

	mesh.StatusPort: {func(o *options, v string) error { return o.parseStatusPort(v) }, true},
	mesh.ReadinessInitialDelay: {func(o *options, v string) (err error) {
		o.readiness.delay, err = parseWithin(v, 0, maxSeconds)
		return err
	}, true},
	mesh.ReadinessPeriod: {func(o *options, v string) (err error) {
		o.readiness.period, err = parseWithin(v, 1, maxSeconds)
		return err
	}, true},
	mesh.ReadinessFailureThreshold: {func(o *options, v string) (err error) {
		o.readiness.failures, err = parseWithin(v, 1, maxThreshold)
		return err
	}, true},
	mesh.RewriteProbes: {func(o *options, v string) (err error) { o.rewriteProbes, err = parseBool(v); return err }, false},

	mesh.InterceptionMode: {func(o *options, v string) (err error) { o.capture.mode, err = parseMode(v); return err }, true},
	mesh.IncludeOutboundIPRanges: {func(o *options, v string) (err error) {
		o.capture.includeRanges, err = parseRanges(v, true)
		return err
	}, true},
	mesh.ExcludeOutboundIPRanges: {func(o *options, v string) (err error) {
		o.capture.excludeRanges, err = parseRanges(v, false)
		return err
	}, true},
	mesh.IncludeOutboundPorts: {func(o *options, v string) (err error) {
		o.capture.includeOutbound, err = parsePorts(v, false)
		return err
	}, true},
	mesh.ExcludeOutboundPorts: {func(o *options, v string) (err error) { o.capture.excludeOut, err = parsePorts(v, false); return err }, true},
	mesh.IncludeInboundPorts: {func(o *options, v string) (err error) {
		o.capture.includeInbound, err = parsePorts(v, true)
		return err
	}, true},
	mesh.ExcludeInboundPorts: {func(o *options, v string) (err error) { o.capture.excludeIn, err = parsePorts(v, false); return err }, true},

	mesh.MergeMetrics:  {func(o *options, v string) error { return o.metrics.parseMerge(v) }, false},
	mesh.ScrapeTargets: {func(o *options, v string) (err error) { o.metrics.targets, err = parseScrapeTargets(v); return err }, false},
}

// builtin is what holds where nobody says anything. The words are those of the
// table's Default column; a test compares.
func builtin() options {
	return options{
		rewriteProbes: true,
		templates:     []string{sidecarTemplate},
		readiness:     readiness{period: 15, failures: 4},
		resources: resources{
			cpu: resource.MustParse("100m"), cpuLimit: resource.MustParse("2"),
			memory: resource.MustParse("128Mi"), memoryLimit: resource.MustParse("1Gi"),
		},
		capture: capture{mode: mesh.RedirectMode, includeRanges: everything, includeInbound: everything},
	}
}

// Place is where a value was written, nearest to the pod first.
type Place string

// The places, from the one that beats the others down to what is built in.
const (
	OnPod       Place = "pod"
	OnNamespace Place = "namespace"
	OfMesh      Place = "mesh"
	Builtin     Place = "default"
)

// lookup finds the value of an annotation for a pod of a namespace, and where it
// stands. What only means something on a pod is not looked for elsewhere.
func lookup(a *mesh.Annotation, pod *Pod, ns mesh.Namespace) (value string, from Place, found bool) {
	if value, found = pod.meta.Annotations[a.Name]; found {
		return value, OnPod, true
	}
	if !a.PodOnly {
		if value, found = ns.Annotations[a.Name]; found {
			return value, OnNamespace, true
		}
	}
	return "", Builtin, false
}

// annotationAt is how a message names an annotation.
func annotationAt(name string, from Place, ns string) string {
	switch from {
	case OnNamespace:
		return "namespace " + quote(ns) + ": metadata.annotations[" + name + "]"
	case OfMesh:
		return "defaults[" + name + "]"
	}
	return "metadata.annotations[" + name + "]"
}

// parseOptions reads what a pod and its namespace ask for, over the mesh's.
func parseOptions(pod *Pod, ns mesh.Namespace, s Settings) (options, error) {
	o := s.mesh
	if len(pod.meta.Annotations) == 0 && len(ns.Annotations) == 0 {
		return o, nil
	}
	var errs []error
	for i := range s.table {
		known := &s.table[i]
		value, from, found := lookup(known, pod, ns)
		if !found {
			continue
		}
		p := parsers[known.Name]
		o.custom = o.custom || p.custom
		o.ownResources = o.ownResources || isResource(known.Name)
		if err := p.set(&o, value); err != nil {
			errs = append(errs, &Refusal{Reason: BadAnnotation, Field: annotationAt(known.Name, from, ns.Name), Problem: quote(value) + " is " + err.Error()})
		}
	}
	if len(errs) == 0 {
		errs = append(errs, o.check(pod, ns))
	}
	return o, errors.Join(errs...)
}

// parsed returns the part of the vocabulary that parsers read, in its order.
func parsed() []mesh.Annotation {
	return slices.DeleteFunc(mesh.Annotations(), func(a mesh.Annotation) bool { return parsers[a.Name].set == nil })
}

func isResource(name string) bool {
	switch name {
	case mesh.ProxyCPU, mesh.ProxyCPULimit, mesh.ProxyMemory, mesh.ProxyMemoryLimit:
		return true
	}
	return false
}

// check holds values against each other. Each complaint names the annotation that
// stands nearest to the pod.
func (o options) check(pod *Pod, ns mesh.Namespace) error {
	at := func(names ...string) string {
		for _, from := range []map[string]string{pod.meta.Annotations, ns.Annotations} {
			for _, name := range names {
				if _, ok := from[name]; ok {
					place := OnPod
					if _, ok := pod.meta.Annotations[name]; !ok {
						place = OnNamespace
					}
					return annotationAt(name, place, ns.Name)
				}
			}
		}
		return annotationAt(names[0], OfMesh, "")
	}
	var errs []error
	refuse := func(field, problem string, args ...any) {
		errs = append(errs, &Refusal{Reason: BadAnnotation, Field: field, Problem: fmt.Sprintf(problem, args...)})
	}
	if o.ownResources {
		o.resources.check(func(request, limit string, asked, allowed resource.Quantity) {
			refuse(at(request, limit), "the sidecar would ask for %s (%s) and be limited to %s (%s)", &asked, request, &allowed, limit)
		})
	}
	switch port := o.statusPort(); port {
	case mesh.EnvoyAdminPort, mesh.OutboundPort, mesh.InboundPort, mesh.ReadinessPort, mesh.EnvoyStatsPort:
		refuse(at(mesh.StatusPort, mesh.ProxyConfig), "port %d is another of the sidecar's own", port)
	}
	errs = append(errs, o.metrics.check(o.statusPort(), at(mesh.ScrapeTargets)))
	return errors.Join(errs...)
}

// check tells broken of each request above its limit, by their annotations.
func (r resources) check(broken func(request, limit string, asked, allowed resource.Quantity)) {
	if r.cpu.Cmp(r.cpuLimit) > 0 {
		broken(mesh.ProxyCPU, mesh.ProxyCPULimit, r.cpu, r.cpuLimit)
	}
	if r.memory.Cmp(r.memoryLimit) > 0 {
		broken(mesh.ProxyMemory, mesh.ProxyMemoryLimit, r.memory, r.memoryLimit)
	}
}

// parseStatusPort takes 0 as Istio does, for a sidecar without probes of its own; but
// the agent then keeps its usual port, since the application's probes need one.
func (o *options) parseStatusPort(value string) error {
	if value == "0" {
		o.noOwnProbes = true
		return nil
	}
	port, err := parsePort(value)
	o.status = port
	return err
}

func parseNative(value string) (nativeMode, error) {
	if value == "auto" {
		return nativeAuto, nil
	}
	native, err := parseBool(value)
	if err != nil {
		return nativeAuto, errors.New("none of auto, true and false")
	}
	if native {
		return nativeAlways, nil
	}
	return nativeNever, nil
}

func parseMode(value string) (string, error) {
	switch value {
	case mesh.RedirectMode, mesh.TPROXYMode, mesh.NoMode:
		return value, nil
	}
	return "", fmt.Errorf("none of %s, %s and %s", mesh.RedirectMode, mesh.TPROXYMode, mesh.NoMode)
}
