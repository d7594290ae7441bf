package settings

import (
	"path/filepath"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/pki"
)

const (
	// ServerFile is what `kubernetes server` reads in a node.
	ServerFile        = Run + "/server.json"
	auditPolicyConfig = Run + "/audit-policy.yaml"
)

// auditPolicy records who asked for what, without bodies: enough to compare the
// rights that were granted with those that were used.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
`

// Server is the file that `kubernetes server` reads; the fields are described
// there (parts/kubernetes/server.go).
type Server struct {
	Data     string `json:"data"`
	CA       string `json:"ca"`
	Ready    string `json:"ready"`
	Listen   string `json:"listen,omitempty"`
	ListenFD int    `json:"listenFD,omitempty"`

	APIServer         []string `json:"apiServer"`
	ControllerManager []string `json:"controllerManager,omitempty"`
	Scheduler         []string `json:"scheduler,omitempty"`
}

// server is the control plane of node 1. It lives in the node's network
// namespace: only there does kube-proxy let it reach a webhook by ClusterIP.
func (n Node) server() Server {
	services := "--service-cluster-ip-range=" + n.Cluster.ServiceNet().String()
	return Server{
		Data:   n.Data("etcd"),
		CA:     n.PKI.CA(),
		Ready:  "ready",
		Listen: "0.0.0.0:6443",
		APIServer: append(apiServer(n.PKI),
			services,
			"--advertise-address="+n.addr(),
			"--allow-privileged=true",
			"--enable-admission-plugins=NodeRestriction",
			"--kubelet-client-certificate="+n.PKI.Cert(pki.APIServerClient),
			"--kubelet-client-key="+n.PKI.Key(pki.APIServerClient),
			"--kubelet-certificate-authority="+n.PKI.CA(),
			"--kubelet-preferred-address-types=InternalIP",
			"--audit-policy-file="+auditPolicyConfig,
			"--audit-log-path="+filepath.Join(n.Logs, "audit.log"),
		),
		ControllerManager: append(client(n.PKI.Kubeconfig(pki.ControllerManager)),
			services,
			"--service-account-private-key-file="+n.PKI.ServiceAccountKey(),
			"--root-ca-file="+n.PKI.CA(),
			"--cluster-signing-cert-file="+n.PKI.CA(),
			"--cluster-signing-key-file="+n.PKI.CAKey(),
			"--use-service-account-credentials=true",
			"--flex-volume-plugin-dir="+n.Data("volume-plugins"), // it makes the default one on the host
			// The default of 20 requests a second costs four seconds at every start.
			"--kube-api-qps=1000",
			"--kube-api-burst=2000",
		),
		Scheduler: client(n.PKI.Kubeconfig(pki.Scheduler)),
	}
}

// APIServerOnly is an API server with etcd and nothing else, on an inherited
// socket of this machine's loopback.
func APIServerOnly(dir pki.Dir, data string, listenFD int, ready string) Server {
	return Server{
		Data:     data,
		CA:       dir.CA(),
		Ready:    ready,
		ListenFD: listenFD,
		APIServer: append(apiServer(dir),
			"--service-cluster-ip-range=10.0.0.0/24", // nothing routes it
			"--advertise-address=127.0.0.1",
			"--allow-privileged=true",         // or it refuses what policies are to be asked about
			"--endpoint-reconciler-type=none", // a loopback address is no endpoint
		),
	}
}

// apiServer is what every API server of the lab is told.
func apiServer(dir pki.Dir) []string {
	return []string{
		"--client-ca-file=" + dir.CA(),
		"--tls-cert-file=" + dir.Cert(pki.APIServer),
		"--tls-private-key-file=" + dir.Key(pki.APIServer),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + dir.ServiceAccountPub(),
		"--service-account-signing-key-file=" + dir.ServiceAccountKey(),
		"--authorization-mode=Node,RBAC",
	}
}

// client is how the controller manager and the scheduler reach the API server,
// and check who asks themselves. Nobody shares their work.
func client(kubeconfig string) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
	}
}
