package mesh

// Labels that users put on namespaces and pods, and that Garrison writes.
const (
	InjectionLabel    = "istio-injection"         // on a namespace: enabled or disabled
	RevisionLabel     = "istio.io/rev"            // on a namespace or pod
	InjectLabel       = "sidecar.istio.io/inject" // on a pod: true or false; as annotation deprecated
	TLSModeLabel      = "security.istio.io/tlsMode"
	CanonicalName     = "service.istio.io/canonical-name"
	CanonicalRevision = "service.istio.io/canonical-revision"
)

// Containers that injection adds.
const (
	InitContainer  = "istio-init"
	ProxyContainer = "istio-proxy"
)

// Annotations of pods.
const (
	RewriteProbes    = "sidecar.istio.io/rewriteAppHTTPProbers"
	ProxyCPU         = "sidecar.istio.io/proxyCPU"
	ProxyCPULimit    = "sidecar.istio.io/proxyCPULimit"
	ProxyMemory      = "sidecar.istio.io/proxyMemory"
	ProxyMemoryLimit = "sidecar.istio.io/proxyMemoryLimit"

	Status           = "sidecar.istio.io/status"
	DefaultContainer = "kubectl.kubernetes.io/default-container"
)

// Annotation documents one annotation for users.
type Annotation struct {
	Name    string
	Value   string // what may be written, in words
	Default string // what holds when the annotation is absent
	Effect  string // one sentence
	Written bool   // by Garrison, not by users
}

// Annotations returns the annotations that pods may carry, in the order of the
// documentation. The injector parses by this table, and docs/annotations.md is
// made from it.
func Annotations() []Annotation {
	return []Annotation{
		{Name: InjectLabel, Value: "true or false", Default: "the namespace decides",
			Effect: "Deprecated spelling of the label of the same name, which beats it: false leaves the pod out."},
		{Name: RewriteProbes, Value: "true or false", Default: "true",
			Effect: "Whether readiness, liveness and startup probes over HTTP and TCP are answered through the agent, so that the kubelet still reaches them when only mutual TLS is accepted."},
		{Name: ProxyCPU, Value: "quantity", Default: "100m", Effect: "CPU request of the sidecar."},
		{Name: ProxyCPULimit, Value: "quantity", Default: "2", Effect: "CPU limit of the sidecar."},
		{Name: ProxyMemory, Value: "quantity", Default: "128Mi", Effect: "Memory request of the sidecar."},
		{Name: ProxyMemoryLimit, Value: "quantity", Default: "1Gi", Effect: "Memory limit of the sidecar."},
		{Name: Status, Value: "JSON", Written: true,
			Effect: "What injection added to the pod, and a hash of the configuration it was made from."},
		{Name: RevisionLabel, Value: "revision", Default: "default", Written: true,
			Effect: "The revision of the injector that made the sidecar. As a label, it selects one."},
		{Name: DefaultContainer, Value: "container name", Default: "the first application container", Written: true,
			Effect: "The container that kubectl exec and logs take when none is named; a value of the user's is kept."},
	}
}
