package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// redirectContainer is the init container that captures the pod's traffic, then
// ends. It alone may change the pod's network.
func redirectContainer(s Settings, r resources) corev1.Container {
	return corev1.Container{
		Name:            mesh.InitContainer,
		Image:           s.image,
		ImagePullPolicy: s.pullPolicy,
		Args: []string{
			"redirect",
			fmt.Sprintf("--proxy-uid=%d", mesh.ProxyUID),
			fmt.Sprintf("--inbound-port=%d", mesh.InboundPort),
			fmt.Sprintf("--outbound-port=%d", mesh.OutboundPort),
			fmt.Sprintf("--exclude-inbound-ports=%d,%d,%d", mesh.AgentPort, mesh.ReadinessPort, mesh.EnvoyStatsPort),
		},
		Resources: r.requirements(),
		SecurityContext: &corev1.SecurityContext{
			RunAsUser:                new(int64(0)),
			RunAsGroup:               new(int64(0)),
			RunAsNonRoot:             new(false), // the pod may ask otherwise for its own
			Privileged:               new(false),
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

// proxyContainer is the native sidecar: the agent and Envoy. The kubelet starts
// what comes after it only when its startup probe has passed.
func proxyContainer(s Settings, r resources, probers map[string]prober) corev1.Container {
	ready := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: mesh.ReadyPath, Port: intstr.FromInt32(mesh.ReadinessPort)}}
	return corev1.Container{
		Name:            mesh.ProxyContainer,
		Image:           s.image,
		ImagePullPolicy: s.pullPolicy,
		Args:            []string{"proxy"},
		RestartPolicy:   new(corev1.ContainerRestartPolicyAlways),
		Env:             proxyEnv(s, probers),
		Ports: []corev1.ContainerPort{
			{Name: "http-envoy-prom", ContainerPort: mesh.EnvoyStatsPort, Protocol: corev1.ProtocolTCP},
		},
		Resources:       r.requirements(),
		ReadinessProbe:  &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 15, FailureThreshold: 4, TimeoutSeconds: 3},
		StartupProbe:    &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 1, FailureThreshold: 600, TimeoutSeconds: 3},
		SecurityContext: proxySecurity(s.privileged),
		VolumeMounts: []corev1.VolumeMount{
			{Name: mesh.EnvoyVolume, MountPath: mesh.ProxyConfigDir},
			{Name: mesh.CertVolume, MountPath: mesh.CertDir},
			{Name: mesh.TokenVolume, MountPath: mesh.TokenDir, ReadOnly: true},
			{Name: mesh.RootVolume, MountPath: mesh.RootDir, ReadOnly: true},
		},
	}
}

// proxySecurity holds the sidecar to what the restricted pod security standard
// allows; privileged opens it for people who look at traffic with sudo and
// tcpdump, which need the runtime's default capabilities besides.
func proxySecurity(privileged bool) *corev1.SecurityContext {
	sc := &corev1.SecurityContext{
		RunAsUser:                new(int64(mesh.ProxyUID)),
		RunAsGroup:               new(int64(mesh.ProxyUID)),
		RunAsNonRoot:             new(true),
		Privileged:               new(false),
		AllowPrivilegeEscalation: new(privileged),
		ReadOnlyRootFilesystem:   new(!privileged),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if privileged {
		sc.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}}
	}
	return sc
}

func proxyEnv(s Settings, probers map[string]prober) []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	env := []corev1.EnvVar{
		field(mesh.PodNameEnv, "metadata.name"),
		field(mesh.PodNamespaceEnv, "metadata.namespace"),
		field(mesh.ServiceAccountEnv, "spec.serviceAccountName"),
		field(mesh.InstanceIPEnv, "status.podIP"),
		{Name: mesh.CAAddressEnv, Value: s.caAddress},
		{Name: mesh.TrustDomainEnv, Value: s.trustDomain.String()},
	}
	if len(probers) > 0 {
		table, _ := json.Marshal(probers) // strings and numbers: it cannot fail
		// The kubelet expands $(NAME) in values, and a probe's header may hold that.
		env = append(env, corev1.EnvVar{Name: mesh.ProbersEnv, Value: strings.ReplaceAll(string(table), "$", `\u0024`)})
	}
	return env
}

func (r resources) requirements() corev1.ResourceRequirements {
	list := func(cpu, memory resource.Quantity) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory}
	}
	return corev1.ResourceRequirements{Requests: list(r.cpu, r.memory), Limits: list(r.cpuLimit, r.memoryLimit)}
}

// sidecarVolumes are what the sidecar mounts, and what no volume of the pod's own
// may be named.
func sidecarVolumes() []corev1.Volume {
	memory := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}
	return []corev1.Volume{
		{Name: mesh.EnvoyVolume, VolumeSource: memory},
		{Name: mesh.CertVolume, VolumeSource: memory},
		{Name: mesh.TokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience:          mesh.TokenAudience,
				ExpirationSeconds: new(int64(mesh.TokenSeconds)),
				Path:              path.Base(mesh.TokenFile),
			}}},
		}}},
		{Name: mesh.RootVolume, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: mesh.RootConfigMap},
		}}},
	}
}

func volumeNames(volumes []corev1.Volume) []string {
	names := make([]string, len(volumes))
	for i, v := range volumes {
		names[i] = v.Name
	}
	return names
}

// rendered is what every pod gets unless it asks for something else, as JSON.
type rendered struct {
	redirect, proxy json.RawMessage
	volumes         []json.RawMessage
	status          string // the annotation's value
	hash            string
}

// render makes the settings' part of every patch. The hash is of what is injected
// rather than of what was asked for, so that a newer build that injects something
// else shows as well.
func render(s Settings) (rendered, error) {
	var r rendered
	var err error
	if r.redirect, err = json.Marshal(redirectContainer(s, s.resources)); err != nil {
		return r, err
	}
	if r.proxy, err = json.Marshal(proxyContainer(s, s.resources, nil)); err != nil {
		return r, err
	}
	volumes := sidecarVolumes()
	for _, v := range volumes {
		raw, err := json.Marshal(v)
		if err != nil {
			return r, err
		}
		r.volumes = append(r.volumes, raw)
	}
	sum := sha256.Sum256(slices.Concat(r.redirect, r.proxy, jsonList(r.volumes), []byte(s.revision)))
	r.hash = hex.EncodeToString(sum[:8])
	status, err := json.Marshal(status{
		InitContainers: []string{mesh.InitContainer, mesh.ProxyContainer},
		Volumes:        volumeNames(volumes),
		Revision:       s.revision,
		Hash:           r.hash,
	})
	r.status = string(status)
	return r, err
}
