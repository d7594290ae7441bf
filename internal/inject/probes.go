package inject

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// prober is a moved probe or hook as its author wrote it, with its port as a number:
// what the agent does when the kubelet asks at its new path. Istio's form.
type prober struct {
	HTTPGet        *corev1.HTTPGetAction   `json:"httpGet,omitempty"`
	TCPSocket      *corev1.TCPSocketAction `json:"tcpSocket,omitempty"`
	GRPC           *corev1.GRPCAction      `json:"grpc,omitempty"`
	TimeoutSeconds int32                   `json:"timeoutSeconds,omitempty"`
}

// asked is one probe or hook of a container.
type asked struct {
	field string // below the container, as a JSON pointer
	path  string // at the agent
	how   prober
}

// asks lists the container's probes and hooks.
func (c *container) asks() []asked {
	all := make([]asked, 0, 5)
	for _, p := range []struct {
		field, name string
		probe       *corev1.Probe
	}{
		{"/readinessProbe", "readyz", c.ReadinessProbe},
		{"/livenessProbe", "livez", c.LivenessProbe},
		{"/startupProbe", "startupz", c.StartupProbe},
	} {
		if p.probe != nil && p.probe.Exec == nil {
			all = append(all, asked{p.field, mesh.AppHealthPrefix + c.Name + "/" + p.name,
				prober{p.probe.HTTPGet, p.probe.TCPSocket, p.probe.GRPC, p.probe.TimeoutSeconds}})
		}
	}
	if c.Lifecycle == nil {
		return all
	}
	for _, h := range []struct {
		field, name string
		hook        *corev1.LifecycleHandler
	}{
		{"/lifecycle/preStop", "prestopz", c.Lifecycle.PreStop},
		{"/lifecycle/postStart", "poststartz", c.Lifecycle.PostStart},
	} {
		if h.hook != nil && h.hook.Exec == nil && h.hook.Sleep == nil {
			all = append(all, asked{h.field, mesh.AppLifecyclePrefix + c.Name + "/" + h.name,
				prober{HTTPGet: h.hook.HTTPGet, TCPSocket: h.hook.TCPSocket}})
		}
	}
	return all
}

// moveProbes sends probes and hooks over HTTP, TCP and gRPC to the agent, which
// answers the kubelet in plain text where the application takes only mutual TLS. Left
// as they are, and warned of: those of a named host, which ask something else than
// this pod; and those whose scheme or port cannot be known or is the sidecar's own, so
// that the API server or the kubelet reports the mistake where the author will look
// for it.
func moveProbes(e *edit) {
	if !e.options.rewriteProbes {
		return
	}
	e.probers = map[string]prober{}
	e.pod.containers(func(list string, i int, c *container) {
		for _, a := range c.asks() {
			at := "/spec/" + list + "/" + strconv.Itoa(i) + a.field
			moved, left := a.how.moved(c.Ports, e.options.statusPort())
			switch {
			case left != "":
				e.warn("container %s: %s is not rewritten: %s", cut(c.Name), strings.ReplaceAll(a.field[1:], "/", "."), left)
				continue
			case moved == (prober{}):
				continue
			case moved.HTTPGet != nil:
				e.moveHTTP(at+"/httpGet", a.path, moved.HTTPGet.Scheme)
			case moved.TCPSocket != nil:
				e.replaceProbe(at, "/tcpSocket", a.path)
			case moved.GRPC != nil:
				e.replaceProbe(at, "/grpc", a.path)
			}
			e.probers[a.path] = moved
		}
	})
}

// moved returns a probe as the agent is to ask it, or says why it stays where it is.
// What is no probe of one kind, which the API server refuses, is neither.
func (p prober) moved(ports []corev1.ContainerPort, statusPort uint16) (to prober, left string) {
	kinds := 0
	for _, set := range []bool{p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return prober{}, ""
	}
	to.TimeoutSeconds = p.TimeoutSeconds
	switch {
	case p.GRPC != nil:
		_, left = probePort(intstr.FromInt32(p.GRPC.Port), nil, statusPort)
		to.GRPC = p.GRPC
		if to.TimeoutSeconds == 0 {
			to.TimeoutSeconds = 1 // the API server's default, which it has not filled in for a file
		}
	case p.TCPSocket != nil:
		var port intstr.IntOrString
		port, left = probePort(p.TCPSocket.Port, ports, statusPort)
		left = elsewhere(p.TCPSocket.Host, left)
		to.TCPSocket = &corev1.TCPSocketAction{Port: port}
	default:
		var port intstr.IntOrString
		port, left = probePort(p.HTTPGet.Port, ports, statusPort)
		left = elsewhere(p.HTTPGet.Host, left)
		if !knownScheme(p.HTTPGet.Scheme) {
			left = "scheme " + quote(string(p.HTTPGet.Scheme)) + " is neither HTTP nor HTTPS"
		}
		to.HTTPGet = &corev1.HTTPGetAction{Path: p.HTTPGet.Path, Port: port, Scheme: p.HTTPGet.Scheme, HTTPHeaders: p.HTTPGet.HTTPHeaders}
	}
	if left != "" {
		return prober{}, left
	}
	return to, ""
}

// elsewhere complains about a host before anything else.
func elsewhere(host, problem string) string {
	if host != "" {
		return "it asks host " + quote(host) + ", not the pod"
	}
	return problem
}

// moveHTTP edits an httpGet member by member, so that headers and whatever else
// it holds stay.
func (e *edit) moveHTTP(at, path string, scheme corev1.URIScheme) {
	e.put(at+"/path", path)
	e.do("replace", at+"/port", e.options.statusPort())
	if scheme == corev1.URISchemeHTTPS {
		e.do("replace", at+"/scheme", corev1.URISchemeHTTP)
	}
}

// replaceProbe puts an httpGet in the place of another kind.
func (e *edit) replaceProbe(at, kind, path string) {
	e.remove(at + kind)
	e.put(at+"/httpGet", corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(int32(e.options.statusPort()))})
}

// knownScheme holds schemes to the API server's spelling, which is the agent's too.
func knownScheme(s corev1.URIScheme) bool {
	return s == "" || s == corev1.URISchemeHTTP || s == corev1.URISchemeHTTPS
}

// probePort returns the number that a probe's port stands for, looked up as the
// kubelet does, among the ports of the probe's own container.
func probePort(port intstr.IntOrString, ports []corev1.ContainerPort, statusPort uint16) (number intstr.IntOrString, problem string) {
	n := port.IntVal
	if port.Type == intstr.String {
		n = 0
		for _, p := range ports {
			if p.Name == port.StrVal {
				n = p.ContainerPort
				break
			}
		}
		if n == 0 {
			return number, "the container has no port named " + quote(port.StrVal)
		}
	}
	switch {
	case n <= 0 || n > math.MaxUint16:
		return number, fmt.Sprintf("%d is not a port", n)
	case n == int32(statusPort):
		return number, fmt.Sprintf("port %d is the agent's own; annotation %s moves that", n, mesh.StatusPort)
	}
	return intstr.FromInt32(n), ""
}
