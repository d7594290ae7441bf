package inject

import (
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// env returns the variables of the proxy that depend on the pod.
func (e *edit) env() ([]corev1.EnvVar, error) {
	var env []corev1.EnvVar
	add := func(name, value string) {
		env = append(env, corev1.EnvVar{Name: name, Value: unexpanded(value)})
	}
	network := e.pod.meta.Labels[mesh.NetworkLabel]
	for _, v := range e.at.Variables {
		if v.Name != mesh.NetworkEnv || network == "" {
			add(v.Name, v.Value)
		}
	}
	if network != "" {
		add(mesh.NetworkEnv, network)
	}
	if len(e.probers) > 0 {
		table, err := proberTable(e.probers)
		if err != nil {
			return nil, err
		}
		env = append(env, corev1.EnvVar{Name: mesh.ProbersEnv, Value: table})
	}
	if e.scrape != nil {
		value, err := e.scrape.env()
		if err != nil {
			return nil, err
		}
		add(mesh.PrometheusEnv, value)
		if targets := string(e.options.metrics.targets); targets != "" {
			add(mesh.ScrapeTargetsEnv, targets)
		}
	}
	return env, nil
}

// proberTable is the value of [mesh.ProbersEnv].
func proberTable(probers map[string]prober) (string, error) {
	raw, err := json.Marshal(probers)
	if err != nil {
		return "", err
	}
	// Within JSON there is a spelling that the kubelet does not expand and the agent
	// reads as the same.
	return strings.ReplaceAll(string(raw), "$", `\u0024`), nil
}

// unexpanded spells a value so that the kubelet, which expands $(NAME), gives it to
// the container as it is.
func unexpanded(value string) string { return strings.ReplaceAll(value, "$(", "$$(") }
