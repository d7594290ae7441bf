package mesh

// Ports of the sidecar. Inside the pod's network namespace they are never
// captured; everything else that is TCP is.
const (
	EnvoyAdminPort = 15000 // Envoy's admin interface, loopback only
	OutboundPort   = 15001 // what the application sends
	InboundPort    = 15006 // what others send to the application
	AgentPort      = 15020 // the agent: rewritten probes, merged metrics
	ReadinessPort  = 15021 // an Envoy listener that asks the agent
	EnvoyStatsPort = 15090 // Envoy's own metrics
)

// Ports of the servers.
const (
	CSRPort     = 8060  // Citadel, gRPC over TLS
	MonitorPort = 15014 // metrics and health of every server, plain HTTP
	WebhookPort = 8443  // the injector behind port 443 of its Service
)

// ProxyUID is the user and group that Envoy and the agent run as. Capture exempts
// the user, so nothing else in a pod may run as it.
const ProxyUID = 1337
