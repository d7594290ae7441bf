package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// access is which cluster a command talks to, and where in it: the flags that every
// such command has, by kubectl's names and with its meaning.
type access struct {
	files     string // Env.Kubeconfig
	overrides clientcmd.ConfigOverrides
	file      string // the flag
}

// newAccess declares the flags. The rest is good once they are parsed.
func newAccess(env Env, f *pflag.FlagSet) *access {
	a := &access{files: env.Kubeconfig}
	f.StringVar(&a.file, "kubeconfig", "", "file that says how to reach the cluster; none: KUBECONFIG, then ~/.kube/config")
	f.StringVar(&a.overrides.CurrentContext, "context", "", "context of that file; none: its current one")
	f.StringVarP(&a.overrides.Context.Namespace, "namespace", "n", "", "namespace; none: the context's")
	return a
}

func (a *access) config() clientcmd.ClientConfig {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: a.file, Precedence: filepath.SplitList(a.files)}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &a.overrides)
}

// client returns a client of the cluster. It sends no request.
func (a *access) client() (kubernetes.Interface, error) {
	config, err := a.config().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config = rest.AddUserAgent(config, "garrison")
	config.QPS, config.Burst = 50, 300 // as kubectl: somebody is waiting
	return kubernetes.NewForConfig(config)
}

// needed is client for what cannot be done without a cluster.
func (a *access) needed() (kubernetes.Interface, error) {
	client, err := a.client()
	if err != nil && clientcmd.IsEmptyConfig(errors.Unwrap(err)) {
		err = errors.New("no cluster is configured: --kubeconfig, KUBECONFIG or ~/.kube/config names one")
	}
	return client, err
}

// namespace returns the namespace that was asked for, else the context's, else
// "default".
func (a *access) namespace() (string, error) {
	name, _, err := a.config().Namespace()
	if err != nil {
		return "", fmt.Errorf("kubeconfig: %w", err)
	}
	return name, nil
}
