package mesh

// Environment variables of the istio-proxy container: written by the injector,
// read by the agent's command, both by these names. [ProbersEnv] is one more.
const (
	PodNameEnv        = "POD_NAME"
	PodNamespaceEnv   = "POD_NAMESPACE"
	ServiceAccountEnv = "SERVICE_ACCOUNT"
	InstanceIPEnv     = "INSTANCE_IP" // the pod's address
	CAAddressEnv      = "CA_ADDR"     // host:port; the host is the name that Citadel must prove
	TrustDomainEnv    = "TRUST_DOMAIN"
)

// Volumes that injection adds to a pod.
const (
	EnvoyVolume = "istio-envoy"    // memory, ProxyConfigDir
	CertVolume  = "istio-certs"    // memory, CertDir
	TokenVolume = "istio-token"    // projected token, TokenDir
	RootVolume  = "istiod-ca-cert" // RootConfigMap, RootDir
)

// TokenSeconds is how long a projected token lives; the kubelet replaces it at 80 %.
const TokenSeconds = 43200

// Values that the injector writes.
const (
	TLSModeIstio    = "istio"   // of TLSModeLabel: the pod can be called over mutual TLS
	DefaultRevision = "default" // of RevisionLabel
)
