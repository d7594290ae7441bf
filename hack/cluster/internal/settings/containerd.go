package settings

import (
	"fmt"
	"strings"
)

const (
	containerdConfig = Run + "/containerd.toml"
	certs            = Run + "/certs"
	mirrorConfig     = certs + "/_default/hosts.toml"
	cniDir           = Run + "/cni"
	cniConfig        = cniDir + "/10-garrison.conflist"
)

// ContainerdArgs are the arguments of containerd.
func (n Node) ContainerdArgs() []string { return []string{"--config", containerdConfig} }

// containerd is told of the two folders that it would else make on the host
// (NRI's and /opt/containerd), and not to lower OOM scores.
func (n Node) containerd() []byte {
	return []byte(strings.NewReplacer(
		"@root@", quote(n.Data("containerd")),
		"@state@", quote(Run+"/containerd"),
		"@socket@", quote(ContainerdSocket),
		"@opt@", quote(Run+"/opt"),
		"@pause@", quote(PauseImage),
		"@certs@", quote(certs),
		"@runc@", quote(n.Parts.Runc),
		"@plugins@", quote(n.Parts.CNI),
		"@cni@", quote(cniDir),
	).Replace(`version = 3
root = @root@
state = @state@
oom_score = 0
[grpc]
  address = @socket@
[plugins.'io.containerd.internal.v1.opt']
  path = @opt@
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = @pause@
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = @certs@
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = @runc@
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [@plugins@]
    conf_dir = @cni@
`))
}

// mirror sends every pull of every registry to the lab's mirror, and names it as
// the origin too: an image that it lacks then fails at once, where containerd
// would else wait for a registry that cannot be reached.
func (n Node) mirror() []byte {
	url := "http://" + n.Cluster.Mirror()
	return fmt.Appendf(nil, "server = %s\n[host.%s]\n  capabilities = ['pull', 'resolve']\n", quote(url), quote(url))
}

// quote makes a TOML basic string. The lab refuses folders with a character that
// Go and TOML escape differently.
func quote(s string) string { return fmt.Sprintf("%q", s) }

func (n Node) cni() object {
	return object{
		"cniVersion": "1.0.0",
		"name":       "garrison",
		"plugins": []object{
			{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
				"ipMasq": false, // routes between the nodes and the host do, and addresses stay true
				"ipam": object{
					"type": "host-local", "dataDir": Run + "/cni-addresses",
					"ranges": [][]object{{{"subnet": n.Cluster.NodePods(n.N).String()}}},
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}
}
