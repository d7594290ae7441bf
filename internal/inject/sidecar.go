package inject

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// sidecar is what injection adds to a pod, as JSON, but for what depends on the
// application: equal sidecars have equal hashes.
type sidecar struct {
	redirect json.RawMessage // istio-init; nil where nothing is captured
	proxy    proxyJSON       // istio-proxy
	volumes  []corev1.Volume
	rendered []json.RawMessage // the volumes
	hash     string
}

// proxyJSON is the proxy's container cut open at the end of its environment.
type proxyJSON struct{ head, tail []byte }

// with returns the container with variables added.
func (p proxyJSON) with(env []corev1.EnvVar) (json.RawMessage, error) {
	size := len(p.head) + len(p.tail)
	for _, v := range env {
		size += len(v.Name) + len(v.Value) + 64
	}
	out := append(make(json.RawMessage, 0, size), p.head...)
	for _, v := range env {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		out = append(append(out, ','), raw...)
	}
	return append(out, p.tail...), nil
}

// render makes the sidecar that options ask for. The hash is of what is injected
// rather than of what was asked for, so that a newer build that injects something
// else shows as well.
func render(s Settings, o options, native bool) (sidecar, error) {
	var c sidecar
	var err error
	if o.capture.mode != mesh.NoMode {
		if c.redirect, err = json.Marshal(redirectContainer(s, o)); err != nil {
			return c, err
		}
	}
	const hole = "\x00"
	proxy := proxyContainer(s, o, native)
	proxy.Env = append(proxy.Env, corev1.EnvVar{Name: hole})
	raw, err := json.Marshal(proxy)
	if err != nil {
		return c, err
	}
	// No value of ours holds this text: a quote in one would be escaped.
	head, tail, found := bytes.Cut(raw, []byte(`,{"name":"\u0000"}`))
	if !found {
		return c, errors.New("sidecar: no place for variables")
	}
	c.proxy = proxyJSON{head, tail}
	c.volumes = append(sidecarVolumes(), o.volumes...)
	sum := sha256.New()
	for _, part := range [][]byte{c.redirect, c.proxy.head, c.proxy.tail, []byte(s.revision), []byte(strings.Join(s.pullSecrets, ","))} {
		sum.Write(part)
		sum.Write([]byte{0})
	}
	for _, v := range c.volumes {
		raw, err := json.Marshal(v)
		if err != nil {
			return c, err
		}
		c.rendered = append(c.rendered, raw)
		sum.Write(raw)
	}
	c.hash = hex.EncodeToString(sum.Sum(nil)[:8])
	return c, nil
}

// redirectContainer is the init container that captures the pod's traffic, then
// ends. It alone may change the pod's network.
func redirectContainer(s Settings, o options) corev1.Container {
	return corev1.Container{
		Name:            mesh.InitContainer,
		Image:           s.imageFor(o),
		ImagePullPolicy: s.pullPolicy,
		Args:            redirectArgs(o),
		Resources:       o.resources.requirements(),
		VolumeMounts:    []corev1.VolumeMount{noToken()},
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

// redirectArgs are the flags of `agent redirect`: those that differ from its
// defaults, and those that people look for.
func redirectArgs(o options) []string {
	excluded := []string{strconv.Itoa(int(o.statusPort())), strconv.Itoa(mesh.ReadinessPort), strconv.Itoa(mesh.EnvoyStatsPort)}
	if o.capture.excludeIn != "" {
		excluded = append(excluded, string(o.capture.excludeIn))
	}
	args := []string{"redirect"}
	if o.capture.mode == mesh.TPROXYMode {
		args = append(args, "--mode="+mesh.TPROXYMode, fmt.Sprintf("--proxy-gid=%d", mesh.ProxyUID))
	} else {
		args = append(args, fmt.Sprintf("--proxy-uid=%d", o.proxyUser()))
	}
	args = append(args,
		fmt.Sprintf("--inbound-port=%d", mesh.InboundPort),
		fmt.Sprintf("--outbound-port=%d", mesh.OutboundPort),
		"--exclude-inbound-ports="+strings.Join(excluded, ","))
	for _, flag := range []struct {
		name            string
		value, standard list
	}{
		{"include-inbound-ports", o.capture.includeInbound, everything},
		{"include-outbound-ranges", o.capture.includeRanges, everything},
		{"exclude-outbound-ranges", o.capture.excludeRanges, ""},
		{"include-outbound-ports", o.capture.includeOutbound, ""},
		{"exclude-outbound-ports", o.capture.excludeOut, ""},
	} {
		if flag.value != flag.standard {
			args = append(args, "--"+flag.name+"="+string(flag.value))
		}
	}
	return args
}

// proxyContainer is the agent and Envoy. As a native sidecar the kubelet starts what
// comes after it only when its startup probe has passed; else the hook makes the
// application wait where that is asked for.
func proxyContainer(s Settings, o options, native bool) corev1.Container {
	c := corev1.Container{
		Name:            mesh.ProxyContainer,
		Image:           s.imageFor(o),
		ImagePullPolicy: s.pullPolicy,
		Args:            proxyArgs(s, o),
		Env:             proxyEnv(s),
		Ports: []corev1.ContainerPort{
			{Name: "http-envoy-prom", ContainerPort: mesh.EnvoyStatsPort, Protocol: corev1.ProtocolTCP},
		},
		Resources:       o.resources.requirements(),
		SecurityContext: proxySecurity(s.privileged, o.capture.mode == mesh.TPROXYMode),
		VolumeMounts:    append(proxyMounts(), o.mounts...),
	}
	if native {
		c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	} else if o.config.hold {
		wait := []string{"/usr/local/bin/agent", "wait"}
		if port := o.statusPort(); port != mesh.AgentPort {
			wait = append(wait, fmt.Sprintf("--status-port=%d", port))
		}
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: wait}}}
	}
	if !o.noOwnProbes {
		ready := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: mesh.ReadyPath, Port: intstr.FromInt32(mesh.ReadinessPort)}}
		c.ReadinessProbe = &corev1.Probe{
			ProbeHandler: ready, InitialDelaySeconds: o.readiness.delay, PeriodSeconds: o.readiness.period,
			FailureThreshold: o.readiness.failures, TimeoutSeconds: 3,
		}
		c.StartupProbe = &corev1.Probe{ProbeHandler: ready, PeriodSeconds: 1, FailureThreshold: 600, TimeoutSeconds: 3}
	}
	return c
}

func proxyArgs(s Settings, o options) []string {
	args := []string{"proxy"}
	if o.capture.mode == mesh.TPROXYMode {
		args = append(args, "--mode="+mesh.TPROXYMode)
	}
	if port := o.statusPort(); port != mesh.AgentPort {
		args = append(args, fmt.Sprintf("--status-port=%d", port))
	}
	if s.probeFrom != "" {
		args = append(args, "--probe-from="+string(s.probeFrom))
	}
	if o.config.concurrency > 0 {
		args = append(args, fmt.Sprintf("--concurrency=%d", o.config.concurrency))
	}
	if o.config.drain > 0 {
		args = append(args, "--drain-time="+o.config.drain.String())
	}
	return args
}

func proxyMounts() []corev1.VolumeMount {
	return []corev1.VolumeMount{
		{Name: mesh.EnvoyVolume, MountPath: mesh.ProxyConfigDir},
		{Name: mesh.CertVolume, MountPath: mesh.CertDir},
		{Name: mesh.TokenVolume, MountPath: mesh.TokenDir, ReadOnly: true},
		{Name: mesh.RootVolume, MountPath: mesh.RootDir, ReadOnly: true},
		noToken(),
	}
}

// proxySecurity holds the sidecar to what the restricted pod security standard
// allows. Privileged opens it for people who look at traffic with sudo and tcpdump,
// which need the runtime's default capabilities besides; a transparent proxy sends
// from others' addresses, and is told apart by its group.
func proxySecurity(privileged, transparent bool) *corev1.SecurityContext {
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
	if transparent {
		sc.RunAsUser, sc.RunAsNonRoot = new(int64(0)), new(false)
		sc.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	}
	if privileged {
		sc.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}}
	}
	return sc
}

func proxyEnv(s Settings) []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	return []corev1.EnvVar{
		field(mesh.PodNameEnv, "metadata.name"),
		field(mesh.PodNamespaceEnv, "metadata.namespace"),
		field(mesh.ServiceAccountEnv, "spec.serviceAccountName"),
		field(mesh.InstanceIPEnv, "status.podIP"),
		field(mesh.HostIPsEnv, "status.hostIPs"),
		{Name: mesh.CAAddressEnv, Value: s.caAddress},
		{Name: mesh.TrustDomainEnv, Value: s.trustDomain.String()},
	}
}

// requirements are none at all where the pod has resources of its own as a whole:
// then the sidecar takes part in these.
func (r resources) requirements() corev1.ResourceRequirements {
	if r == (resources{}) {
		return corev1.ResourceRequirements{}
	}
	list := func(cpu, memory resource.Quantity) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory}
	}
	return corev1.ResourceRequirements{Requests: list(r.cpu, r.memory), Limits: list(r.cpuLimit, r.memoryLimit)}
}
