package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Uninject returns what takes an injected sidecar off a pod. It needs the record that
// injection left, and nothing else: any revision's sidecar comes off.
func Uninject(pod *Pod) ([]Operation, error) {
	value, ok := pod.meta.Annotations[mesh.Status]
	if !ok {
		return nil, errors.New("the pod has no sidecar: annotation " + mesh.Status + " is missing")
	}
	var r record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return nil, annotationRefusal(mesh.Status, value, "not the JSON that injection writes: "+cut(strings.TrimPrefix(err.Error(), "json: ")))
	}
	return pod.uninject(r)
}

// uninject returns what takes the sidecar off again, all but the changes that overlays
// made to what is not theirs.
func (p *Pod) uninject(r record) ([]Operation, error) {
	e := &edit{pod: p}
	proxy, _, err := p.proxy()
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		table, _ := proxy.probers()
		e.restoreProbes(table)
	}
	var mine overrides
	if value, ok := p.meta.Annotations[mesh.Overrides]; ok {
		if err := json.Unmarshal([]byte(value), &mine); err != nil {
			return nil, annotationRefusal(mesh.Overrides, value, "not the JSON that injection writes: "+cut(err.Error()))
		}
		if n := len(mine.Containers) + len(mine.InitContainers); n > maxOverridden {
			return nil, annotationRefusal(mesh.Overrides, value, fmt.Sprintf("%d containers, more than the %d that an injection could add", n, maxOverridden))
		}
	}
	containerName := func(c container) string { return c.Name }
	takeOff(e, "/spec/initContainers", p.spec.InitContainers, containerName, r.InitContainers, mine.InitContainers)
	takeOff(e, "/spec/containers", p.spec.Containers, containerName, r.Containers, mine.Containers)
	namedName := func(n named) string { return n.Name }
	takeOff(e, "/spec/volumes", p.spec.Volumes, namedName, r.Volumes, nil)
	takeOff(e, "/spec/imagePullSecrets", p.spec.ImagePullSecrets, namedName, r.ImagePullSecrets, nil)
	for _, name := range r.Labels {
		if _, ok := p.meta.Labels[name]; ok {
			e.remove("/metadata/labels" + pointer(name))
		}
	}
	e.restoreAnnotations(r, proxy)
	return e.ops, errors.Join(e.errs...)
}

// takeOff removes the elements of a list that are named, last first, and puts others at
// its end. A list of which nothing is left goes as a whole.
func takeOff[T any](e *edit, list string, have []T, name func(T) string, off []string, back []json.RawMessage) {
	gone := 0
	for i, element := range slices.Backward(have) {
		if slices.Contains(off, name(element)) {
			e.remove(list + "/" + strconv.Itoa(i))
			gone++
		}
	}
	left := len(have) - gone
	switch {
	case left == 0 && len(back) == 0 && gone > 0:
		e.remove(list)
	default:
		e.insert(list, left, left, back)
	}
}

// restoreProbes gives the application its probes back, named ports as numbers.
func (e *edit) restoreProbes(table map[string]prober) {
	e.pod.containers(func(list string, i int, c *container) {
		for _, a := range c.asks() {
			was, known := table[a.path]
			if !known || a.how.HTTPGet == nil || a.how.HTTPGet.Path != a.path {
				continue
			}
			at := "/spec/" + list + "/" + strconv.Itoa(i) + a.field
			switch {
			case was.HTTPGet != nil:
				e.restoreHTTP(at+"/httpGet", was.HTTPGet)
			case was.TCPSocket != nil:
				e.remove(at + "/httpGet")
				e.put(at+"/tcpSocket", was.TCPSocket)
			case was.GRPC != nil:
				e.remove(at + "/httpGet")
				e.put(at+"/grpc", was.GRPC)
			}
		}
	})
}

func (e *edit) restoreHTTP(at string, was *corev1.HTTPGetAction) {
	if was.Path == "" {
		e.remove(at + "/path")
	} else {
		e.do("replace", at+"/path", was.Path)
	}
	e.do("replace", at+"/port", intstr.FromInt32(was.Port.IntVal))
	if was.Scheme == corev1.URISchemeHTTPS {
		e.do("replace", at+"/scheme", was.Scheme)
	}
}

// restoreAnnotations takes off what injection wrote, and gives the pod its own words
// about Prometheus back.
func (e *edit) restoreAnnotations(r record, proxy *proxyEnvironment) {
	have := e.pod.meta.Annotations
	gone := append([]string{mesh.Status}, r.Annotations...)
	if _, ok := have[mesh.Overrides]; ok {
		gone = append(gone, mesh.Overrides)
	}
	back := map[string]string{}
	if proxy != nil {
		var s scrape
		if value, i := proxy.variable(mesh.PrometheusEnv); i >= 0 && json.Unmarshal([]byte(strings.ReplaceAll(value, "$$(", "$(")), &s) == nil {
			for name, value := range map[string]string{mesh.PrometheusScrape: s.Scrape, mesh.PrometheusPort: s.Port, mesh.PrometheusPath: s.Path} {
				if value != "" {
					back[name] = value
				} else {
					gone = append(gone, name)
				}
			}
		}
	}
	slices.Sort(gone)
	for _, name := range slices.Compact(gone) {
		_, returns := back[name]
		if _, ok := have[name]; ok && !returns {
			e.remove("/metadata/annotations" + pointer(name))
		}
	}
	for _, name := range []string{mesh.PrometheusScrape, mesh.PrometheusPort, mesh.PrometheusPath} {
		if value, ok := back[name]; ok && have[name] != value {
			e.put("/metadata/annotations"+pointer(name), value)
		}
	}
}
