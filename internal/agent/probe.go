package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	maxProbeBody      = 10 << 10 // what the kubelet reads of a body, too
	maxProbeRedirects = 10
)

// prober answers the kubelet's probes by asking the application, as the kubelet
// would: at the pod's address, which neither capture nor a policy of the mesh
// stands before. It gives back a status and nothing else, and sends nothing that
// the probe's author did not write: the port is open to every neighbour.
type prober struct {
	table   Probers
	address netip.Addr

	// Callers of one probe share one question to the application, so that
	// neighbours who ask without end cannot multiply into it, nor crowd out the
	// kubelet.
	underway singleflight.Group
}

// ServeHTTP answers GET of a path of the table, and nothing else.
func (p *prober) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	probe, ok := p.table.probes[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	// The server's own write timeout is shorter than some authors' patience. An
	// error means a recorder or HTTP/2, where no deadline is set.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(probe.timeout + 5*time.Second))
	status, _, _ := p.underway.Do(r.URL.Path, func() (any, error) {
		// Not the request's context: others may be waiting for the answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), probe.timeout)
		defer cancel()
		return p.ask(ctx, probe, r.UserAgent()), nil
	})
	w.WriteHeader(status.(int))
}

// ask returns the status that stands for the application's answer: its own, 200
// for a redirect or an open port, 502 where it does not answer in HTTP or at all,
// 504 where it is too slow.
func (p *prober) ask(ctx context.Context, probe probe, agent string) int {
	target := net.JoinHostPort(p.address.String(), strconv.Itoa(int(probe.port)))
	var err error
	status := http.StatusOK
	if probe.http != nil {
		status, err = askHTTP(ctx, target, probe.http, agent)
	} else {
		err = askTCP(ctx, target)
	}
	switch {
	case ctx.Err() != nil:
		return http.StatusGatewayTimeout
	case err != nil, status < 200, status > 599:
		return http.StatusBadGateway
	case status >= 300 && status < 400:
		return http.StatusOK
	}
	return status
}

func askTCP(ctx context.Context, target string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return conn.Close()
}

func askHTTP(ctx context.Context, target string, probe *httpProbe, agent string) (int, error) {
	req, err := probe.request(ctx, target, agent)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{ // one connection for each probe, as the kubelet does
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a probe asks for life, not for identity; so does the kubelet
		DisableKeepAlives:      true,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: staysHere}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, maxProbeBody); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return resp.StatusCode, nil
}

// request is what the probe's author asked for, sent to target on behalf of the
// user agent given.
func (h *httpProbe) request(ctx context.Context, target, agent string) (*http.Request, error) {
	u := h.path
	u.Scheme, u.Host = h.scheme, target
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Host = h.host // "": the target
	req.Header = h.header.Clone()
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", kubeletAgent(agent))
	}
	return req, nil
}

// staysHere lets a client follow redirects within the pod, also to another of its
// ports, as the kubelet does: an application that sends everybody on to its HTTPS
// port is as healthy as that port. Others end the probe there, successfully.
func staysHere(next *http.Request, via []*http.Request) error {
	if next.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxProbeRedirects {
		return errors.New("too many redirects")
	}
	return nil
}

// kubeProbe is what the kubelet calls itself; some vendors' minor versions end in +.
var kubeProbe = regexp.MustCompile(`^kube-probe/[0-9]{1,3}\.[0-9]{1,3}\+?$`)

// kubeletAgent passes on the kubelet's own name, by which people keep probes out
// of their logs, and gives that name to everyone else.
func kubeletAgent(agent string) string {
	if kubeProbe.MatchString(agent) {
		return agent
	}
	return "kube-probe/"
}
