// Package cluster is Garrison's only door to the Kubernetes API server: leader
// election, whom tokens prove, which pods and accounts live, watches, the loops that keep Secrets, ConfigMaps and the
// webhooks' caBundle as they should be, and those that look whether injection does
// what it should. What should be is said by functions that the caller hands in; this
// package reads, compares and writes.
//
// It refuses to clobber: a Secret of a foreign type, a ConfigMap's other keys, a
// webhook entry that does not exist and fields that somebody else owns stay as
// they are. Every write carries what it was decided from (a resource version, a
// UID) or names only the fields that are Garrison's. Objects in a watch's cache
// are never changed.
//
// Start reading at [Connect]; loop.go is the loop that all keepers share, decision.go what
// that of Secrets decides. Tokens begin in tokenlocal.go, which asks jwks.go for keys,
// workloads.go for who lives, and token.go where it cannot tell itself. The functions need these verbs and no others:
//
//	Lead            leases (coordination.k8s.io): create; get, update by name
//	LeaseMarks      leases (coordination.k8s.io): get, update by name
//	CreateOrRead    secrets: create; get by name
//	EnsureSecret    secrets: create; get, update by name
//	ReadSecret      secrets: get by name
//	ReadConfigMap   configmaps: list by name
//	WarnOfSecret    secrets: get by name
//	                events: create
//	WatchSecret     secrets: list, watch by name
//	WatchConfigMap  configmaps: list, watch by name
//	FollowConfigMap configmaps: list, watch by name
//	WatchNamespaces namespaces: get, list, watch
//	WatchNodes      nodes: list, watch
//	Tokens          tokenreviews (authentication.k8s.io): create
//	LocalTokens     /.well-known/openid-configuration, /openid/v1/jwks: get
//	OwnAudiences    /.well-known/openid-configuration: get
//	WatchWorkloads  pods, serviceaccounts: get, list, watch
//	KeepSecrets     namespaces: list, watch
//	                serviceaccounts: get, list, watch
//	                secrets: get, list, watch, create, patch, delete
//	                events: create
//	                pods: list, watch, where only accounts in use get Secrets
//	KeepConfigMaps  namespaces: list, watch
//	                configmaps: create, list, watch, patch by name
//	                events: create
//	KeepPublished   configmaps: create, patch by name
//	KeepCABundle    mutatingwebhookconfigurations (admissionregistration.k8s.io):
//	                list, watch; patch by name
//	SelfTest        mutatingwebhookconfigurations (admissionregistration.k8s.io): list
//	                pods: create, by dry run only
//	AuditPods       pods: list, watch
//	                replicasets (apps): get
//	                events: create
//
// "By name" means that resourceNames may limit the verbs up to the semicolon, list
// and watch included: those watches select by metadata.name, and create where it is
// server-side apply that creates. Lead, what begins with Create, Ensure and Read,
// WatchSecret, WatchConfigMap, FollowConfigMap and KeepPublished need their rights in one namespace,
// SelfTest that to create pods in those that it is given, the others cluster-wide.
//
// client-go's own log lines go where klog sends them; a command that wants them in
// its log calls klog.SetSlogLogger, which is global and therefore not done here.
package cluster

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Requests per second that a server may send, reviews of tokens left out. client-go's
// default of 5 would take over half an hour for the Secrets of 10,000 accounts.
const (
	qps   = 50
	burst = 100
)

// API is a connection to one cluster's API server.
type API struct {
	// Client is the general one, for what this package does not offer.
	Client kubernetes.Interface

	// Leases and the proof of callers have clients, and so rate limits, of their own: a
	// storm of writes must neither cost the leader its lease nor keep callers out.
	leases   kubernetes.Interface
	reviews  kubernetes.Interface
	bulk     kubernetes.Interface // for loops that limit themselves
	metadata metadata.Interface

	token string // that this process itself is let in with; "" for other ways
}

// Connect prepares clients for the cluster that a kubeconfig file describes, or
// with "" for the cluster that this process runs in. It sends no request.
func Connect(kubeconfig string) (*API, error) {
	config, err := load(kubeconfig)
	if err != nil {
		return nil, err
	}
	api, err := open(config)
	if err != nil {
		return nil, fmt.Errorf("API server %s: %w", config.Host, err)
	}
	return api, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("in-cluster configuration: %w", err)
		}
		return config, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return config, nil
}

func open(config *rest.Config) (*API, error) {
	config = rest.AddUserAgent(rest.CopyConfig(config), "garrison")
	config.QPS, config.Burst = qps, burst
	meta, err := metadata.NewForConfig(metadata.ConfigFor(config)) // before the content type: metadata has its own
	if err != nil {
		return nil, err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	leases, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // limited by how many are under way and how often, in token.go, jwks.go, liveread.go, following.go and secrets.go
	reviews, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	bulk, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &API{Client: client, leases: leases, reviews: reviews, bulk: bulk, metadata: meta, token: config.BearerToken}, nil
}
