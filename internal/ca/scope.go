package ca

import (
	"encoding/base64"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Scope tells which service accounts get Secrets. Those of the servers' own namespace
// always do. The zero value is the accounts of namespaces with injection.
type Scope struct {
	System     string          // the servers' namespace
	All        bool            // namespaces, whether injection is on or not
	Namespaces labels.Selector // if not nil, these namespaces, whether injection is on or not
	Accounts   labels.Selector // if not nil, only these accounts
	Used       bool            // only accounts that pods run as
}

// Includes reports whether an account with these labels, used by a pod or not, gets a
// Secret.
func (s Scope) Includes(ns *corev1.Namespace, account map[string]string, used bool) bool {
	switch {
	case ns.Name == s.System:
		return true
	case s.Used && !used, s.Accounts != nil && !s.Accounts.Matches(labels.Set(account)):
		return false
	case s.Namespaces != nil:
		return s.Namespaces.Matches(labels.Set(ns.Labels))
	}
	return s.All || injected(ns)
}

// injected reports whether injection is on for a namespace.
func injected(ns *corev1.Namespace) bool {
	switch ns.Labels[mesh.InjectionLabel] {
	case "enabled":
		return true
	case "disabled": // beats a revision, as for injection
		return false
	}
	_, ok := ns.Labels[mesh.RevisionLabel]
	return ok
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
			Labels:    map[string]string{mesh.ManagedByLabel: mesh.ManagedBy, mesh.ConfigLabel: "true"},
		},
		Data: map[string]string{mesh.RootKey: string(a.current.Load().bundle)},
	}
}

// LegacyRootConfigMap returns the ConfigMap where Istio 1.1's node agents look for the
// roots, in the servers' namespace only. Its value is base64 of the PEM.
func (a *Authority) LegacyRootConfigMap(ns *corev1.Namespace) *corev1.ConfigMap {
	if ns.Name != a.options.SystemNamespace {
		return nil
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns.Name,
			Name:      mesh.LegacyRootConfigMap,
			Labels:    map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
		},
		Data: map[string]string{mesh.LegacyRootKey: base64.StdEncoding.EncodeToString(a.current.Load().bundle)},
	}
}
