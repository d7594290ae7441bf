package mesh

// Environment variables of the istio-proxy container: written by the injector,
// read by the agent's command, both by these names.
const (
	PodNameEnv        = "POD_NAME"
	PodNamespaceEnv   = "POD_NAMESPACE"
	ServiceAccountEnv = "SERVICE_ACCOUNT"
	InstanceIPEnv     = "INSTANCE_IP" // the pod's address
	HostIPsEnv        = "HOST_IPS"    // the node's addresses, comma separated
	CAAddressEnv      = "CA_ADDR"     // host:port; the host is the name that Citadel must prove
	TrustDomainEnv    = "TRUST_DOMAIN"
	ClusterEnv        = "ISTIO_META_CLUSTER_ID" // from the webhook's path
	NetworkEnv        = "ISTIO_META_NETWORK"    // from the pod's label, else from the webhook's path

	// ProbersEnv maps each rewritten probe's path to the probe that the pod's author
	// wrote, as JSON.
	ProbersEnv = "ISTIO_KUBE_APP_PROBERS"

	// PrometheusEnv is what the pod's author wrote about scraping, as JSON:
	// {"scrape":"true","port":"8080","path":"/metrics"}, absent members left out.
	PrometheusEnv = "ISTIO_PROMETHEUS_ANNOTATIONS"

	// ScrapeTargetsEnv is the value of [ScrapeTargets], checked.
	ScrapeTargetsEnv = "ISTIO_PROMETHEUS_SCRAPE_TARGETS"
)

// Volumes that injection adds to a pod.
const (
	EnvoyVolume   = "istio-envoy"       // memory, ProxyConfigDir
	CertVolume    = "istio-certs"       // memory, CertDir
	TokenVolume   = "istio-token"       // projected token, TokenDir
	RootVolume    = "istiod-ca-cert"    // RootConfigMap, RootDir
	NoTokenVolume = "garrison-no-token" // empty, over APITokenDir: the sidecar has no business with the API server
)

// TokenSeconds is how long a projected token lives; the kubelet replaces it at 80 %.
const TokenSeconds = 43200

// Values that labels and annotations have.
const (
	TLSModeIstio    = "istio"   // of TLSModeLabel: the pod can be called over mutual TLS
	DefaultRevision = "default" // of RevisionLabel
	CaptureStrict   = "strict"  // of CaptureLabel

	RedirectMode = "REDIRECT" // of InterceptionMode
	TPROXYMode   = "TPROXY"
	NoMode       = "NONE"
)
