package ca

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// InScope tells the namespaces whose service accounts get Secrets: those that
// injection is on for and system, which is the servers' own, or all of them.
func InScope(system string, all bool) func(*corev1.Namespace) bool {
	return func(ns *corev1.Namespace) bool {
		if all || ns.Name == system {
			return true
		}
		switch ns.Labels[mesh.InjectionLabel] {
		case "enabled":
			return true
		case "disabled": // beats a revision, as for injection
			return false
		}
		_, ok := ns.Labels[mesh.RevisionLabel]
		return ok
	}
}

// RootConfigMap returns the ConfigMap that brings the roots into a namespace, or
// nil where it does not belong: namespaces without workloads, and those that are
// being deleted.
func (a *Authority) RootConfigMap(ns *corev1.Namespace) *corev1.ConfigMap {
	switch {
	case ns.Name == metav1.NamespacePublic, ns.Name == corev1.NamespaceNodeLease:
		return nil
	case ns.DeletionTimestamp != nil, ns.Status.Phase == corev1.NamespaceTerminating:
		return nil
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns.Name,
			Name:      mesh.RootConfigMap,
			Labels:    map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
		},
		Data: map[string]string{mesh.RootKey: string(a.current.Load().bundle)},
	}
}
