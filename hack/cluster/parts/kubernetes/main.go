// Command kubernetes is the lab's whole Kubernetes in one binary. What it is
// depends on how it is called:
//
//	kubectl …                  when the name it was started by is kubectl, or
//	kubernetes kubectl …       as upstream
//	kubernetes kubelet …       as upstream
//	kubernetes kube-proxy …    as upstream
//	kubernetes server FILE     the control plane: see server.go
//
// One binary builds in half the time of seven and needs a third of the memory.
// It is for tests: etcd does not wait for the disk.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	if filepath.Base(os.Args[0]) != "kubectl" && len(os.Args) > 1 {
		os.Args = os.Args[1:] // the commands read os.Args themselves, as if started by their own name
	}
	switch filepath.Base(os.Args[0]) {
	case "kubectl":
		kubectlutil.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	case "kubelet":
		run(kubelet.NewKubeletCommand(context.Background()))
	case "kube-proxy":
		run(kubeproxy.NewProxyCommand())
	case "server":
		if len(os.Args) != 2 {
			usage()
		}
		if err := serve(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "kubernetes: server:", err)
			os.Exit(1)
		}
	default:
		usage()
	}
}

func run(cmd *cobra.Command) {
	cmd.SetArgs(os.Args[1:])
	os.Exit(cli.Run(cmd))
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: kubernetes kubectl|kubelet|kube-proxy …, or kubernetes server FILE")
	os.Exit(2)
}
