package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// caState is what a cluster keeps of its CA, as far as the user may read it.
type caState struct {
	namespace string            // of the CA's Secrets, but for one that was plugged in
	settings  map[string]string // of Citadel, by the names of its flags
	secrets   []*corev1.Secret  // of the CA, those that are there
	roots     []byte            // what workloads are given, in PEM; empty where it could not be read
	unread    []error

	incomplete bool // whether any of the Secrets could not be read
}

// citadelSettingsConfigMap is how the name of Citadel's settings begins.
const citadelSettingsConfigMap = "garrison-citadel-settings"

// readCA reads what Citadel in a namespace signs with. What cannot be read goes to unread.
func readCA(ctx context.Context, client kubernetes.Interface, namespace string) caState {
	s := caState{}
	var err error
	if s.settings, err = readCitadelSettings(ctx, client, namespace); err != nil {
		s.unread = append(s.unread, fmt.Errorf("settings of Citadel: %w; the defaults are assumed", err))
	}
	s.namespace = cmp.Or(s.settings["ca-namespace"], namespace)
	for _, at := range [][2]string{{s.namespace, mesh.CASecret}, {s.namespace, mesh.IntermediateSecret}, {namespace, mesh.PluggedSecret}} {
		secret, err := client.CoreV1().Secrets(at[0]).Get(ctx, at[1], metav1.GetOptions{})
		switch {
		case err == nil:
			s.secrets = append(s.secrets, secret)
		case !apierrors.IsNotFound(err):
			s.incomplete = true
			s.unread = append(s.unread, fmt.Errorf("secret %s/%s: %w", at[0], at[1], err))
		}
	}
	m, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, mesh.RootConfigMap, metav1.GetOptions{})
	if err == nil {
		s.roots = []byte(m.Data[mesh.RootKey])
	} else if !apierrors.IsNotFound(err) {
		s.unread = append(s.unread, fmt.Errorf("configmap %s/%s: %w", namespace, mesh.RootConfigMap, err))
	}
	return s
}

// readCitadelSettings reads them where Citadel has them from: arguments, variables and
// the ConfigMap that its Deployment mounts, the first of which wins.
func readCitadelSettings(ctx context.Context, client kubernetes.Interface, namespace string) (map[string]string, error) {
	list, err := client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{LabelSelector: citadelSelector})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("no deployment of it in namespace %s", namespace)
	}
	pod := list.Items[0].Spec.Template.Spec
	settings := map[string]string{}
	for _, v := range pod.Volumes {
		if v.ConfigMap == nil || !strings.HasPrefix(v.ConfigMap.Name, citadelSettingsConfigMap) {
			continue
		}
		m, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, v.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		for name, text := range m.Data {
			var values map[string]any
			if err := yaml.Unmarshal([]byte(text), &values); err != nil {
				return nil, fmt.Errorf("configmap %s/%s: %s: %w", namespace, m.Name, name, err)
			}
			for key, value := range values {
				settings[key] = fmt.Sprint(value)
			}
		}
	}
	for _, c := range pod.Containers {
		if c.Name != citadelContainer {
			continue
		}
		for _, e := range c.Env {
			if name, ok := strings.CutPrefix(e.Name, "GARRISON_"); ok {
				settings[strings.ToLower(strings.ReplaceAll(name, "_", "-"))] = e.Value
			}
		}
		for _, arg := range c.Args {
			if name, value, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "="); ok {
				settings[name] = value
			}
		}
	}
	return settings, nil
}

// inFiles reports whether the CA is where only Citadel's pods see it.
func (s caState) inFiles() bool {
	return s.settings["ca-dir"] != "" || s.settings["signing-cert"] != ""
}

// hidden reports whether what signs cannot be told from here.
func (s caState) hidden() bool { return s.inFiles() || s.incomplete }

func (s caState) secret(name string) *corev1.Secret {
	for _, secret := range s.secrets {
		if secret.Name == name {
			return secret
		}
	}
	return nil
}

// authority makes of what is there what a Citadel that starts now would make.
func (s caState) authority(now time.Time) (*ca.Authority, error) {
	switch {
	case s.inFiles():
		return nil, errors.New("it is plugged in by files, which only Citadel's pods have")
	case s.incomplete:
		return nil, errors.New("the Secrets of the CA cannot be read")
	}
	mode, err := ca.ParseMode(cmp.Or(s.settings["ca"], ca.Auto.String()))
	if err != nil {
		return nil, fmt.Errorf("setting ca: %w", err)
	}
	domain := identity.DefaultTrustDomain
	if chosen := s.settings["trust-domain"]; chosen != "" {
		if domain, err = identity.ParseTrustDomain(chosen); err != nil {
			return nil, fmt.Errorf("setting trust-domain: %w", err)
		}
	}
	m := ca.Material{
		Mode:         mode,
		Root:         s.secret(mesh.CASecret),
		Intermediate: s.secret(mesh.IntermediateSecret),
		Direct:       s.settings["intermediate"] == "false",
		DomainChosen: s.settings["trust-domain"] != "",
		Trusted:      s.roots,
	}
	if plugged := s.secret(mesh.PluggedSecret); plugged != nil {
		m.Plugged = &ca.PluggedFiles{From: "secret " + plugged.Namespace + "/" + plugged.Name, Files: plugged.Data}
	}
	return ca.Start(m, ca.Options{TrustDomain: domain, SystemNamespace: mesh.SystemNamespace}, now)
}

// inUse returns the roots in use, and in words where that is known from.
func (s caState) inUse(now time.Time) (roots ca.RootsInUse, from string, err error) {
	authority, err := s.authority(now)
	if err == nil {
		roots, err = ca.ReadRootsInUse(authority.Bundle())
		return roots, authority.Status().From, err
	}
	if len(s.roots) == 0 {
		return roots, "", err
	}
	given, errGiven := ca.ReadRootsInUse(s.roots)
	if errGiven != nil {
		return roots, "", err
	}
	return given, "configmap " + mesh.RootConfigMap, err
}
