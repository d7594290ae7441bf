package mesh

// Labels that users put on namespaces and pods, and that Garrison writes.
const (
	InjectionLabel    = "istio-injection"         // on a namespace: enabled or disabled
	RevisionLabel     = "istio.io/rev"            // on a namespace or pod
	InjectLabel       = "sidecar.istio.io/inject" // on a pod: true or false; as annotation deprecated
	CaptureLabel      = "garrison.io/capture"     // on a namespace: strict
	NetworkLabel      = "topology.istio.io/network"
	TLSModeLabel      = "security.istio.io/tlsMode"
	WorkloadName      = "service.istio.io/workload-name"
	CanonicalName     = "service.istio.io/canonical-name"
	CanonicalRevision = "service.istio.io/canonical-revision"
)

// Containers that injection adds.
const (
	InitContainer  = "istio-init"
	ProxyContainer = "istio-proxy"
)

// Annotations of pods, those that name no other object of namespaces too.
const (
	Templates     = "inject.istio.io/templates"
	ProxyConfig   = "proxy.istio.io/config"
	NativeSidecar = "sidecar.istio.io/nativeSidecar"

	ProxyImage       = "sidecar.istio.io/proxyImage"
	ProxyCPU         = "sidecar.istio.io/proxyCPU"
	ProxyCPULimit    = "sidecar.istio.io/proxyCPULimit"
	ProxyMemory      = "sidecar.istio.io/proxyMemory"
	ProxyMemoryLimit = "sidecar.istio.io/proxyMemoryLimit"
	UserVolume       = "sidecar.istio.io/userVolume"
	UserVolumeMount  = "sidecar.istio.io/userVolumeMount"

	StatusPort                = "status.sidecar.istio.io/port"
	ReadinessInitialDelay     = "readiness.status.sidecar.istio.io/initialDelaySeconds"
	ReadinessPeriod           = "readiness.status.sidecar.istio.io/periodSeconds"
	ReadinessFailureThreshold = "readiness.status.sidecar.istio.io/failureThreshold"
	RewriteProbes             = "sidecar.istio.io/rewriteAppHTTPProbers"

	InterceptionMode        = "sidecar.istio.io/interceptionMode"
	IncludeOutboundIPRanges = "traffic.sidecar.istio.io/includeOutboundIPRanges"
	ExcludeOutboundIPRanges = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
	IncludeOutboundPorts    = "traffic.sidecar.istio.io/includeOutboundPorts"
	ExcludeOutboundPorts    = "traffic.sidecar.istio.io/excludeOutboundPorts"
	IncludeInboundPorts     = "traffic.sidecar.istio.io/includeInboundPorts"
	ExcludeInboundPorts     = "traffic.sidecar.istio.io/excludeInboundPorts"

	MergeMetrics     = "prometheus.istio.io/merge-metrics"
	ScrapeTargets    = "prometheus.istio.io/scrape-targets"
	PrometheusScrape = "prometheus.io/scrape"
	PrometheusPort   = "prometheus.io/port"
	PrometheusPath   = "prometheus.io/path"

	Status               = "sidecar.istio.io/status"
	Overrides            = "proxy.istio.io/overrides"
	DefaultContainer     = "kubectl.kubernetes.io/default-container"
	DefaultLogsContainer = "kubectl.kubernetes.io/default-logs-container"
)

// Annotation documents one annotation for users.
type Annotation struct {
	Name    string
	Value   string // what may be written, in words
	Default string // what holds where neither pod, namespace nor mesh says otherwise
	Effect  string // one sentence
	PodOnly bool   // has no meaning as the default of a namespace or of the mesh
	Opens   bool   // may take traffic out of the capture: needs a grant where the namespace is strict
	Written bool   // by Garrison, not by users
}

// Annotations returns the annotations that pods may carry, in the order of the
// documentation. The injector parses by this table, and docs/annotations.md is
// made from it.
func Annotations() []Annotation {
	const (
		ranges = "comma separated CIDR ranges, or *"
		ports  = "comma separated ports, or *"
	)
	return []Annotation{
		{Name: InjectLabel, Value: "true or false", Default: "the namespace decides", PodOnly: true,
			Effect: "Deprecated spelling of the label of the same name, which beats it: false leaves the pod out. Any other value is warned of and says nothing."},
		{Name: Templates, Value: "comma separated names", Default: "sidecar",
			Effect: "What the pod is made with, in this order: sidecar is built in, others are overlays that the operator offers. An unknown name refuses the pod."},
		{Name: NativeSidecar, Value: "auto, true or false", Default: "auto",
			Effect: "Whether the sidecar is an init container that keeps running; auto: where every node that the pod may land on has Kubernetes 1.33 or newer."},
		{Name: ProxyConfig, Value: "YAML: holdApplicationUntilProxyStarts, statusPort, concurrency, drainDuration, terminationDrainDuration", Default: "{}",
			Effect: "Settings of the proxy; statusPort opens what status.sidecar.istio.io/port does. Other keys of Istio's ProxyConfig are warned of and have no effect."},

		{Name: ProxyImage, Value: "image, or a name that replaces the last part of the default's", Default: "the mesh's",
			Effect: "Image of the sidecar. An image that is not Garrison's needs a grant of the operator."},
		{Name: ProxyCPU, Value: "quantity", Default: "100m", Effect: "CPU request of the sidecar."},
		{Name: ProxyCPULimit, Value: "quantity", Default: "2", Effect: "CPU limit of the sidecar."},
		{Name: ProxyMemory, Value: "quantity", Default: "128Mi", Effect: "Memory request of the sidecar."},
		{Name: ProxyMemoryLimit, Value: "quantity", Default: "1Gi", Effect: "Memory limit of the sidecar."},
		{Name: UserVolume, Value: "JSON: an object from name to volume, or a list of volumes", PodOnly: true,
			Effect: "Volumes that the pod gets besides, for the sidecar. Kinds that reach the node need a grant of the operator."},
		{Name: UserVolumeMount, Value: "JSON: an object from name to mount, or a list of mounts", PodOnly: true, Opens: true,
			Effect: "Where the sidecar mounts volumes of the pod."},

		{Name: StatusPort, Value: "port", Default: "15020", Opens: true,
			Effect: "Port of the agent, which answers rewritten probes and gives merged metrics. 0 leaves it at the default and drops the sidecar's own probes."},
		{Name: ReadinessInitialDelay, Value: "seconds", Default: "0", Effect: "Initial delay of the sidecar's readiness probe."},
		{Name: ReadinessPeriod, Value: "seconds", Default: "15", Effect: "Period of the sidecar's readiness probe."},
		{Name: ReadinessFailureThreshold, Value: "count", Default: "4", Effect: "Failures until the sidecar counts as not ready."},
		{Name: RewriteProbes, Value: "true or false", Default: "true",
			Effect: "Whether probes over HTTP, TCP and gRPC and lifecycle hooks over HTTP and TCP are answered through the agent, so that the kubelet still reaches them when only mutual TLS is accepted."},

		{Name: InterceptionMode, Value: "REDIRECT, TPROXY or NONE", Default: "REDIRECT", Opens: true,
			Effect: "How traffic is led through the proxy. TPROXY keeps the caller's address and gives the sidecar NET_ADMIN; NONE captures nothing."},
		{Name: IncludeOutboundIPRanges, Value: ranges, Default: "*", Opens: true, Effect: "Destinations that outgoing connections are captured to; others leave without the proxy."},
		{Name: ExcludeOutboundIPRanges, Value: "comma separated CIDR ranges", Opens: true, Effect: "Destinations that outgoing connections reach without the proxy."},
		{Name: IncludeOutboundPorts, Value: "comma separated ports",
			Effect: "Ports that outgoing connections are captured to, also at destinations that includeOutboundIPRanges leaves out."},
		{Name: ExcludeOutboundPorts, Value: "comma separated ports", Opens: true, Effect: "Ports that outgoing connections reach without the proxy."},
		{Name: IncludeInboundPorts, Value: ports, Default: "*", Opens: true, Effect: "Ports that incoming connections are captured at; others are reached without the proxy."},
		{Name: ExcludeInboundPorts, Value: "comma separated ports", Opens: true, Effect: "Ports that incoming connections reach without the proxy."},

		{Name: MergeMetrics, Value: "true or false", Default: "where prometheus.io/scrape is true",
			Effect: "Whether the agent gives Envoy's and the application's metrics together, to whoever asks, and the pod's prometheus.io annotations name it."},
		{Name: ScrapeTargets, Value: "comma separated port:path", PodOnly: true,
			Effect: "Where the application has metrics, if at more places than prometheus.io/port and path can say."},
		{Name: PrometheusScrape, Value: "true or false", PodOnly: true, Effect: "Whether the application has metrics. Replaced when metrics are merged, as are port and path."},
		{Name: PrometheusPort, Value: "port", Default: "80", PodOnly: true, Effect: "The port of the application's metrics."},
		{Name: PrometheusPath, Value: "path", Default: "/metrics", PodOnly: true, Effect: "The path of the application's metrics."},

		{Name: Status, Value: "JSON", Written: true,
			Effect: "What injection added to the pod, and a hash of the configuration it was made from."},
		{Name: Overrides, Value: "JSON", Written: true,
			Effect: "The pod's own istio-proxy and istio-init containers, whose fields beat those of injection."},
		{Name: RevisionLabel, Value: "revision", Default: "default", Written: true,
			Effect: "The revision of the injector that made the sidecar. As a label, it selects one."},
		{Name: DefaultContainer, Value: "container name", Default: "the first application container", Written: true,
			Effect: "The container that kubectl exec takes when none is named; a value of the user's is kept."},
		{Name: DefaultLogsContainer, Value: "container name", Default: "the first application container", Written: true,
			Effect: "The same for kubectl logs."},
	}
}

// Label documents one label for users.
type Label struct {
	Name    string
	On      string // whose label it is
	Value   string
	Effect  string // one sentence
	Written bool   // by Garrison where the pod's author did not
}

// Labels returns the labels that decide something, in the order of the documentation.
func Labels() []Label {
	return []Label{
		{Name: InjectionLabel, On: "namespace", Value: "enabled or disabled", Effect: "Whether new pods of the namespace get a sidecar; beats every label of revisions."},
		{Name: RevisionLabel, On: "namespace or pod", Value: "revision or tag", Effect: "Which injector makes the sidecar; the namespace's beats the pod's."},
		{Name: InjectLabel, On: "pod", Value: "true or false", Effect: "false leaves the pod out; true takes it in where the namespace says nothing. Any other value is warned of and decides nothing."},
		{Name: CaptureLabel, On: "namespace", Value: "strict", Effect: "Nothing in the namespace runs without the sidecar, or leaves its capture unless the operator names it."},
		{Name: NetworkLabel, On: "pod", Value: "network", Effect: "The network that the pod is in; beats the one in the webhook's path."},
		{Name: WorkloadName, On: "pod", Value: "name", Effect: "Names the service that the pod is part of, before any guess."},
		{Name: CanonicalName, On: "pod", Value: "name", Written: true, Effect: "The service that the pod is part of: from its labels, else from its owner."},
		{Name: CanonicalRevision, On: "pod", Value: "version", Written: true, Effect: "The version of that service, or latest."},
		{Name: TLSModeLabel, On: "pod", Value: "istio", Written: true, Effect: "Tells others that the pod can be called over mutual TLS."},
	}
}
