package inject

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// podSecurity returns what pod security admission would refuse of the sidecar in a
// namespace of that enforced level, as a warning; "" where it refuses nothing. The API
// server says the same in its own words when it refuses the pod, but not what to do.
func podSecurity(checks policy.Evaluator, ns mesh.Namespace, added []json.RawMessage, volumes []corev1.Volume) (string, error) {
	if ns.Labels[api.EnforceLevelLabel] == "" {
		return "", nil
	}
	enforced, errs := api.PolicyToEvaluate(ns.Labels, api.Policy{Enforce: api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()}})
	if len(errs) > 0 || enforced.Enforce.Level == api.LevelPrivileged {
		return "", nil // labels that the API server reads as privileged, or warns of itself
	}
	// What the pod says for itself is its author's affair: the sidecar's containers say
	// everything that the standards ask for, or are refused for it.
	spec := corev1.PodSpec{Volumes: volumes, SecurityContext: &corev1.PodSecurityContext{
		RunAsNonRoot:   new(true),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}}
	for _, raw := range added {
		var c corev1.Container
		if err := json.Unmarshal(raw, &c); err != nil {
			return "", err
		}
		spec.InitContainers = append(spec.InitContainers, c)
	}
	var violations []string
	for _, result := range checks.EvaluatePod(enforced.Enforce, &metav1.ObjectMeta{}, &spec) {
		if !result.Allowed {
			violations = append(violations, fmt.Sprintf("%s (%s)", result.ForbiddenReason, result.ForbiddenDetail))
		}
	}
	if len(violations) == 0 {
		return "", nil
	}
	return fmt.Sprintf("pod security %q of namespace %s refuses what injection adds: %s; "+
		"set the namespace to privileged, or annotate the pod %s: %s and let the node capture",
		enforced.Enforce.String(), ns.Name, strings.Join(violations, ", "), mesh.InterceptionMode, mesh.NoMode), nil
}
