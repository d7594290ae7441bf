// Package settings holds what the programs of a node are told: flags and
// configuration files, as functions of the cluster's plan and of the folders
// that it uses. Why a setting is there is said beside it; most are there because
// several nodes share one kernel with a host whose settings are not theirs.
//
// It is pure: it returns arguments and bytes and writes nothing. Start reading
// at [Node].
package settings

import (
	"encoding/json"
	"path/filepath"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/pki"
	"github.com/garrison-mesh/garrison/hack/cluster/internal/plan"
)

// Run is the folder, in memory and seen by this node only, that holds sockets
// and configuration files. Its path is the same in every node.
const Run = "/run/garrison"

// ContainerdSocket is where containerd listens.
const ContainerdSocket = Run + "/containerd.sock"

// Node says which node of which cluster is set up, with which folders.
type Node struct {
	Cluster plan.Cluster
	N       int
	PKI     pki.Dir
	Dir     string // on disk: images, volumes, etcd
	Logs    string
	Parts   Parts
}

// Parts says where the programs are.
type Parts struct {
	Kubernetes string // the binary
	Containerd string // the folder of containerd, its shim and ctr
	Runc       string // the binary
	CNI        string // the folder of plugins
	Images     string // the OCI layout of PauseImage and CoreDNSImage
}

// The lab's own images, served by the mirror beside the layouts it is given.
const (
	PauseImage   = "docker.io/garrison/lab-pause:1"
	CoreDNSImage = "docker.io/garrison/lab-coredns:1.14.6"
)

func (n Node) name() string { return n.Cluster.Node(n.N) }
func (n Node) addr() string { return n.Cluster.NodeAddr(n.N).Addr().String() }

// Data is a folder of the node on disk.
func (n Node) Data(what string) string { return filepath.Join(n.Dir, what) }

// Files returns the configuration files of the node by path.
func (n Node) Files() (map[string][]byte, error) {
	files := map[string][]byte{
		containerdConfig:  n.containerd(),
		mirrorConfig:      n.mirror(),
		resolvConf:        []byte("# No upstream: the lab's pods know the names of the cluster only.\n"),
		auditPolicyConfig: []byte(auditPolicy),
	}
	for path, value := range map[string]any{
		cniConfig:       n.cni(),
		kubeletConfig:   n.kubelet(),
		kubeProxyConfig: n.kubeProxy(),
		ServerFile:      n.server(),
	} {
		b, err := json.MarshalIndent(value, "", "  ") // JSON is YAML
		if err != nil {
			return nil, err
		}
		files[path] = b
	}
	return files, nil
}

type object map[string]any
