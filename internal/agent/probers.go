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

// Probers is the table of the pod's rewritten probes by the path that the kubelet
// asks for. The zero value has none.
type Probers struct{ probes map[string]probe }

// Len returns the number of probes.
func (p Probers) Len() int { return len(p.probes) }

// probe is one probe as the pod's author wrote it, checked.
type probe struct {
	port    uint16
	timeout time.Duration
	http    *httpProbe // nil: a TCP connection is all that is asked for
}

type httpProbe struct {
	scheme string // http or https
	path   url.URL
	host   string // Host header, or "" for the pod's address and port
	header http.Header
}

// proberKey holds the container's name to RFC 1123, as Kubernetes does.
var proberKey = regexp.MustCompile(`^` + mesh.AppHealthPrefix + `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/(livez|readyz|startupz)$`)

// ParseProbers reads the table that the injector writes: a JSON object from
// /app-health/<container>/{livez,readyz,startupz} to the probe as Kubernetes
// spells it. "" is an empty table. An entry that could not be answered truly is an
// error that names its key: better no pod than one whose health is guessed.
func ParseProbers(text string) (Probers, error) {
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
			return Probers{}, fmt.Errorf("%q: not of the form %s<container>/{livez,readyz,startupz}", key, mesh.AppHealthPrefix)
		}
		p, err := parseProbe(entry)
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
)

func parseProbe(entry json.RawMessage) (probe, error) {
	var j probeJSON
	dec := json.NewDecoder(bytes.NewReader(entry))
	dec.DisallowUnknownFields() // a kind of probe that we do not know
	if err := dec.Decode(&j); err != nil {
		return probe{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return probe{}, errors.New("more than one value")
	}
	if j.TimeoutSeconds < 0 {
		return probe{}, fmt.Errorf("timeoutSeconds: %d", j.TimeoutSeconds)
	}
	p := probe{timeout: time.Second} // as the API server defaults it
	if j.TimeoutSeconds > 0 {
		p.timeout = time.Duration(j.TimeoutSeconds) * time.Second
	}
	var err error
	switch {
	case j.HTTPGet != nil && j.TCPSocket == nil:
		if p.port, err = parseTarget(j.HTTPGet.Host, j.HTTPGet.Port); err != nil {
			return probe{}, fmt.Errorf("httpGet: %w", err)
		}
		if p.http, err = j.HTTPGet.parse(); err != nil {
			return probe{}, fmt.Errorf("httpGet: %w", err)
		}
	case j.TCPSocket != nil && j.HTTPGet == nil:
		if p.port, err = parseTarget(j.TCPSocket.Host, j.TCPSocket.Port); err != nil {
			return probe{}, fmt.Errorf("tcpSocket: %w", err)
		}
	default:
		return probe{}, errors.New("exactly one of httpGet and tcpSocket wanted")
	}
	return p, nil
}

// parseTarget refuses other hosts, which the agent must not be made to call, and
// its own port, where the probe would answer itself.
func parseTarget(host string, port int32) (uint16, error) {
	if host != "" {
		return 0, fmt.Errorf("host %q: only the pod itself is probed", host)
	}
	if port < 1 || port > 65535 || port == mesh.AgentPort {
		return 0, fmt.Errorf("port %d: not a port of the application", port)
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
	// As the kubelet reads it: a URL reference of which path and query count, or,
	// where it is none, a path as it stands.
	if u, err := url.Parse(j.Path); err == nil {
		p.path = url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}
	} else {
		p.path = url.URL{Path: j.Path}
	}
	if !strings.HasPrefix(p.path.Path, "/") {
		p.path.Path = "/" + p.path.Path
		p.path.RawPath = ""
	}
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
