package settings

import "github.com/garrison-mesh/garrison/hack/cluster/internal/pki"

const (
	kubeletConfig   = Run + "/kubelet.json"
	kubeProxyConfig = Run + "/kube-proxy.json"
	resolvConf      = Run + "/resolv.conf"
)

// KubeletArgs are the arguments of the kubelet.
func (n Node) KubeletArgs() []string {
	return []string{
		"--config=" + kubeletConfig,
		"--kubeconfig=" + n.PKI.Kubeconfig(pki.Kubelet(n.N)),
		"--hostname-override=" + n.name(),
		"--node-ip=" + n.addr(),
		"--root-dir=" + n.Data("kubelet"),
	}
}

func (n Node) kubelet() object {
	return object{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  n.addr(),
		"clusterDNS":               []string{n.Cluster.DNS().String()},
		"clusterDomain":            "cluster.local",
		"containerRuntimeEndpoint": "unix://" + ContainerdSocket,
		"resolvConf":               resolvConf,
		"volumePluginDir":          n.Data("volume-plugins"), // the default is outside what the node may write

		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": n.PKI.CA()},
		},
		"authorization":     object{"mode": "Webhook"},
		"tlsCertFile":       n.PKI.Cert(pki.KubeletServer(n.N)),
		"tlsPrivateKeyFile": n.PKI.Key(pki.KubeletServer(n.N)),

		// Several kubelets share a kernel with a host that is not theirs.
		"cgroupDriver":           "cgroupfs",
		"cgroupRoot":             n.Cluster.Cgroup(n.N),
		"enforceNodeAllocatable": []string{"pods"},
		"failCgroupV1":           false,
		"failSwapOn":             false,
		"oomScoreAdj":            0, // it may not be lowered without CAP_SYS_RESOURCE

		// A full disk of the host is no reason to evict a test, and the mirror is near.
		"evictionHard": object{
			"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
		},
		"imageMinimumGCAge":           "100000h",
		"imageGCHighThresholdPercent": 100,
		"imageGCLowThresholdPercent":  99,
	}
}

// KubeProxyArgs are the arguments of kube-proxy.
func (n Node) KubeProxyArgs() []string { return []string{"--config=" + kubeProxyConfig} }

func (n Node) kubeProxy() object {
	return object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             "nftables",
		"bindAddress":      n.addr(),
		"clusterCIDR":      n.Cluster.PodNet().String(),
		"hostnameOverride": n.name(),
		"clientConnection": object{"kubeconfig": n.PKI.Kubeconfig(pki.KubeProxy)},
		"oomScoreAdj":      0,
		"conntrack":        object{"maxPerCore": 0},          // the limit is the whole machine's: leave it
		"nftables":         object{"minSyncPeriod": "100ms"}, // few Services: a test need not wait a second
	}
}
