package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Probers is the table of the pod's rewritten probes and lifecycle hooks by the
// path that the kubelet asks for. The zero value has none.
type Probers struct{ probes map[string]probe }

// Len returns the number of probes and hooks.
func (p Probers) Len() int { return len(p.probes) }

// stops reports whether a container is to be asked before it is stopped.
func (p Probers) stops() bool {
	for key := range p.probes {
		if strings.HasSuffix(key, "/prestopz") {
			return true
		}
	}
	return false
}

// hookTimeout bounds a lifecycle hook, which has no bound of its own: the kubelet
// waits for preStop as long as the pod's grace period, for postStart without end.
// Grace periods beyond this are for what drains by itself, not for one request.
const hookTimeout = 10 * time.Minute

// probe is one probe or hook as the pod's author wrote it, checked.
type probe struct {
	port    uint16
	timeout time.Duration
	hook    bool       // of a container's life, not of its health
	http    *httpProbe // at most one of these; neither: a TCP connection is all that is asked for
	grpc    *grpcProbe
}

type httpProbe struct {
	scheme string // http or https
	path   url.URL
	host   string // Host header, or "" for the pod's address and port
	header http.Header
}

type grpcProbe struct{ service string }

// proberKey holds the container's name to RFC 1123, as Kubernetes does.
var proberKey = regexp.MustCompile(`^(` + mesh.AppHealthPrefix + containerName + `/(livez|readyz|startupz)|` +
	mesh.AppLifecyclePrefix + containerName + `/(prestopz|poststartz))$`)

const containerName = `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`

// ParseProbers reads the table that the injector writes: a JSON object from
// /app-health/<container>/{livez,readyz,startupz} and
// /app-lifecycle/<container>/{prestopz,poststartz} to the probe or hook as
// Kubernetes spells it. "" is an empty table. An entry that could not be answered
// truly, such as one that probes the agent's own port, is an error that names its
// key: better no pod than one whose health is guessed.
func ParseProbers(text string, own uint16) (Probers, error) {
	if text == "" {
		return Probers{}, nil
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &entries); err != nil {
		return Probers{}, fmt.Errorf("not a JSON object of probes: %w", err)
	}
	probes := make(map[string]probe, len(entries))
	for key, entry := range entries {
		if !proberKey.MatchString(key) {
			return Probers{}, fmt.Errorf("%q: neither of the form %s<container>/{livez,readyz,startupz} nor %s<container>/{prestopz,poststartz}",
				key, mesh.AppHealthPrefix, mesh.AppLifecyclePrefix)
		}
		p, err := parseProbe(entry, strings.HasPrefix(key, mesh.AppLifecyclePrefix))
		if err == nil && p.port == own {
			err = fmt.Errorf("port %d: the agent's own", own)
		}
		if err != nil {
			return Probers{}, fmt.Errorf("%q: %w", key, err)
		}
		probes[key] = p
	}
	return Probers{probes: probes}, nil
}

// The probe in Kubernetes' spelling.
type (
	probeJSON struct {
		HTTPGet        *httpGetJSON   `json:"httpGet"`
		TCPSocket      *tcpSocketJSON `json:"tcpSocket"`
		GRPC           *grpcJSON      `json:"grpc"`
		TimeoutSeconds int32          `json:"timeoutSeconds"`
	}
	httpGetJSON struct {
		Path        string       `json:"path"`
		Port        int32        `json:"port"`
		Host        string       `json:"host"`
		Scheme      string       `json:"scheme"`
		HTTPHeaders []headerJSON `json:"httpHeaders"`
	}
	headerJSON struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	tcpSocketJSON struct {
		Port int32  `json:"port"`
		Host string `json:"host"`
	}
	grpcJSON struct {
		Port    int32   `json:"port"`
		Service *string `json:"service"`
	}
)

func parseProbe(entry json.RawMessage, hook bool) (probe, error) {
	var j probeJSON
	dec := json.NewDecoder(bytes.NewReader(entry))
	dec.DisallowUnknownFields() // a kind of probe that we do not know
	if err := dec.Decode(&j); err != nil {
		return probe{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return probe{}, errors.New("more than one value")
	}
	if j.TimeoutSeconds < 0 || hook && j.TimeoutSeconds > 0 {
		return probe{}, fmt.Errorf("timeoutSeconds: %d", j.TimeoutSeconds)
	}
	p := probe{hook: hook, timeout: time.Second} // as the API server defaults it
	switch {
	case hook:
		p.timeout = hookTimeout
	case j.TimeoutSeconds > 0:
		p.timeout = time.Duration(j.TimeoutSeconds) * time.Second
	}
	var err error
	switch h, t, g := j.HTTPGet, j.TCPSocket, j.GRPC; {
	case h != nil && t == nil && g == nil:
		if p.port, err = parseTarget(h.Host, h.Port); err != nil {
			return probe{}, fmt.Errorf("httpGet: %w", err)
		}
		if p.http, err = h.parse(); err != nil {
			return probe{}, fmt.Errorf("httpGet: %w", err)
		}
	case t != nil && h == nil && g == nil:
		if p.port, err = parseTarget(t.Host, t.Port); err != nil {
			return probe{}, fmt.Errorf("tcpSocket: %w", err)
		}
	case g != nil && h == nil && t == nil && !hook:
		if p.port, err = parseTarget("", g.Port); err != nil {
			return probe{}, fmt.Errorf("grpc: %w", err)
		}
		p.grpc = &grpcProbe{}
		if g.Service != nil {
			p.grpc.service = *g.Service
		}
	case hook:
		return probe{}, errors.New("exactly one of httpGet and tcpSocket wanted")
	default:
		return probe{}, errors.New("exactly one of httpGet, tcpSocket and grpc wanted")
	}
	return p, nil
}

// parseTarget refuses other hosts, which the agent must not be made to call.
func parseTarget(host string, port int32) (uint16, error) {
	if host != "" {
		return 0, fmt.Errorf("host %q: only the pod itself is probed", host)
	}
	if port < 1 || port > 65535 {
		return 0, fmt.Errorf("port %d: not from 1 to 65535", port)
	}
	return uint16(port), nil
}

func (j httpGetJSON) parse() (*httpProbe, error) {
	p := &httpProbe{header: http.Header{}}
	switch j.Scheme {
	case "", "HTTP":
		p.scheme = "http"
	case "HTTPS":
		p.scheme = "https"
	default:
		return nil, fmt.Errorf("scheme %q: HTTP or HTTPS wanted", j.Scheme)
	}
	p.path = parsePath(j.Path)
	for _, h := range j.HTTPHeaders {
		if !httpguts.ValidHeaderFieldName(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) {
			return nil, fmt.Errorf("httpHeaders: %q: not a header", h.Name)
		}
		if strings.EqualFold(h.Name, "Host") {
			p.host = h.Value
			continue
		}
		p.header.Add(h.Name, h.Value)
	}
	// The kubelet's own rules: a probe may set these two, empty means none.
	if _, ok := p.header["Accept"]; !ok {
		p.header.Set("Accept", "*/*")
	} else if p.header.Get("Accept") == "" {
		p.header.Del("Accept")
	}
	return p, nil
}

// parsePath reads a path as the kubelet does: a URL reference of which path and
// query count, or, where it is none, a path as it stands.
func parsePath(text string) url.URL {
	path := url.URL{Path: text}
	if u, err := url.Parse(text); err == nil {
		path = url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	}
	if !strings.HasPrefix(path.Path, "/") {
		path.Path = "/" + path.Path
		path.RawPath = ""
	}
	return path
}
