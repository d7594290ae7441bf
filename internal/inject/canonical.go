package inject

import (
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// canonicalName names the service that the pod is part of, as Istio guesses it,
// or "" where no guess is a label value.
func (p *Pod) canonicalName() string {
	for _, label := range []string{mesh.WorkloadName, "app.kubernetes.io/name", "app"} {
		if name := p.meta.Labels[label]; name != "" {
			return labelValue(name)
		}
	}
	return labelValue(p.workload())
}

// canonicalRevision names the version of the service.
func (p *Pod) canonicalRevision() string {
	for _, label := range []string{"app.kubernetes.io/version", "version"} {
		if version := p.meta.Labels[label]; version != "" {
			return labelValue(version)
		}
	}
	return "latest"
}

// A CronJob appends to its name the minute that a Job was due, in decimal.
var cronSuffix = regexp.MustCompile(`-\d{8,10}$`)

// workload guesses what owns the pod without asking the API server: the
// Deployment behind a ReplicaSet, the CronJob behind a Job, else the owner itself.
func (p *Pod) workload() string {
	for _, owner := range p.meta.OwnerReferences {
		switch {
		case !owner.Controller:
			continue
		case owner.Kind == "ReplicaSet": // of a Deployment or of an Argo Rollout
			for _, label := range []string{"pod-template-hash", "rollouts-pod-template-hash"} {
				if hash := p.meta.Labels[label]; hash != "" {
					return strings.TrimSuffix(owner.Name, "-"+hash)
				}
			}
		case owner.Kind == "ReplicationController": // perhaps of an OpenShift DeploymentConfig
			if config := p.meta.Labels["deploymentconfig"]; config != "" {
				return config
			}
		case owner.Kind == "Job":
			return cronSuffix.ReplaceAllString(owner.Name, "")
		}
		return owner.Name
	}
	return strings.TrimSuffix(p.Name(), "-")
}

// labelValue cuts a name to what a label may hold, or returns "".
func labelValue(name string) string {
	if len(name) > validation.LabelValueMaxLength {
		name = strings.TrimRight(name[:validation.LabelValueMaxLength], "-_.")
	}
	if len(validation.IsValidLabelValue(name)) > 0 {
		return ""
	}
	return name
}
