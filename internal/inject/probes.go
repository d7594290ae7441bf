package inject

import (
	"math"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// prober is a moved probe as its author wrote it, with its port as a number: what
// the agent does when the kubelet asks at the probe's new path. Istio's form.
type prober struct {
	HTTPGet        *corev1.HTTPGetAction   `json:"httpGet,omitempty"`
	TCPSocket      *corev1.TCPSocketAction `json:"tcpSocket,omitempty"`
	TimeoutSeconds int32                   `json:"timeoutSeconds,omitempty"`
}

// moveProbes sends HTTP and TCP probes to the agent, which answers the kubelet in
// plain text where the application takes only mutual TLS. Left as they are: exec
// and gRPC probes; those of a named host, which ask something else than this pod;
// and those whose scheme or port cannot be known or is the agent's own port, so
// that the API server or the kubelet reports the mistake where the author will look
// for it.
func moveProbes(e *edit) {
	if !e.options.rewriteProbes {
		return
	}
	e.probers = map[string]prober{}
	e.pod.containers(func(list string, i int, c *container) {
		at := "/spec/" + list + "/" + strconv.Itoa(i)
		for _, p := range []struct {
			field, name string
			probe       *corev1.Probe
		}{
			{"readinessProbe", "readyz", c.ReadinessProbe},
			{"livenessProbe", "livez", c.LivenessProbe},
			{"startupProbe", "startupz", c.StartupProbe},
		} {
			if p.probe == nil || p.probe.Exec != nil || p.probe.GRPC != nil {
				continue
			}
			moved, path := prober{TimeoutSeconds: p.probe.TimeoutSeconds}, mesh.AppHealthPrefix+c.Name+"/"+p.name
			switch http, tcp := p.probe.HTTPGet, p.probe.TCPSocket; {
			case http != nil && tcp == nil:
				port, ok := probePort(http.Port, c.Ports)
				if !ok || http.Host != "" || !knownScheme(http.Scheme) {
					continue
				}
				moved.HTTPGet = &corev1.HTTPGetAction{Path: http.Path, Port: port, Scheme: http.Scheme, HTTPHeaders: http.HTTPHeaders}
				e.moveHTTP(at+"/"+p.field+"/httpGet", path, http.Scheme)
			case tcp != nil && http == nil:
				port, ok := probePort(tcp.Port, c.Ports)
				if !ok || tcp.Host != "" {
					continue
				}
				moved.TCPSocket = &corev1.TCPSocketAction{Port: port}
				e.remove(at + "/" + p.field + "/tcpSocket")
				e.put(at+"/"+p.field+"/httpGet", corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(mesh.AgentPort)})
			default:
				continue
			}
			e.probers[path] = moved
		}
	})
}

// moveHTTP edits an httpGet member by member, so that headers and whatever else
// it holds stay.
func (e *edit) moveHTTP(at, path string, scheme corev1.URIScheme) {
	e.put(at+"/path", path)
	e.do("replace", at+"/port", mesh.AgentPort)
	if scheme == corev1.URISchemeHTTPS {
		e.do("replace", at+"/scheme", corev1.URISchemeHTTP)
	}
}

// knownScheme holds schemes to the API server's spelling, which is the agent's too.
func knownScheme(s corev1.URIScheme) bool {
	return s == "" || s == corev1.URISchemeHTTP || s == corev1.URISchemeHTTPS
}

// probePort returns the number that a probe's port stands for, looked up as the
// kubelet does, among the ports of the probe's own container.
func probePort(port intstr.IntOrString, ports []corev1.ContainerPort) (intstr.IntOrString, bool) {
	number := port.IntVal
	if port.Type == intstr.String {
		number = 0
		for _, p := range ports {
			if p.Name == port.StrVal {
				number = p.ContainerPort
				break
			}
		}
	}
	return intstr.FromInt32(number), 0 < number && number <= math.MaxUint16 && number != mesh.AgentPort
}
