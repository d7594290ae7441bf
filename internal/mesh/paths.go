package mesh

// Folders and files in the istio-proxy container.
const (
	CertDir   = "/etc/certs" // tmpfs; cert-chain.pem, key.pem, root-cert.pem
	CertChain = "cert-chain.pem"
	CertKey   = "key.pem"
	CertRoot  = "root-cert.pem"

	TokenDir  = "/var/run/secrets/tokens"
	TokenFile = TokenDir + "/istio-token"

	RootDir  = "/var/run/secrets/istio"
	RootFile = RootDir + "/root-cert.pem"

	ProxyConfigDir = "/etc/istio/proxy" // writable; Envoy's bootstrap

	APITokenDir = "/var/run/secrets/kubernetes.io/serviceaccount" // where Kubernetes mounts a pod's own token
)

// TokenAudience is the audience of the projected token that proves a pod to
// Citadel.
const TokenAudience = "istio-ca"

// Paths of the injector and of the sidecar's agent.
const (
	InjectPath  = "/inject"
	ReadyPath   = "/healthz/ready"    // of the sidecar, on ReadinessPort and AgentPort
	MetricsPath = "/stats/prometheus" // of Envoy, on EnvoyStatsPort; merged with the application's, on AgentPort

	AppHealthPrefix    = "/app-health/"    // + <container>/{livez,readyz,startupz}
	AppLifecyclePrefix = "/app-lifecycle/" // + <container>/{prestopz,poststartz}
)
