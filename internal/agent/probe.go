package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
)

const (
	maxProbeBody      = 10 << 10 // what the kubelet reads of a body, too
	maxProbeRedirects = 10
)

// prober answers the kubelet's probes and calls its lifecycle hooks by asking the
// application, as the kubelet would: at the pod's address, which neither capture
// nor a policy of the mesh stands before. It gives back a status and nothing else,
// and sends nothing that the probe's author did not write: where the node's
// addresses cannot be known, every neighbour reaches it.
type prober struct {
	table   Probers
	address netip.Addr

	// Callers of one probe share one question to the application, so that
	// neighbours who ask without end cannot multiply into it, nor crowd out the
	// kubelet.
	underway singleflight.Group

	hooks sync.RWMutex // read-locked while a hook is under way
}

// settle waits for the hooks under way.
func (p *prober) settle() {
	p.hooks.Lock()
	defer p.hooks.Unlock()
}

func (p *prober) knows(path string) bool {
	_, ok := p.table.probes[path]
	return ok
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
	if probe.hook {
		p.hooks.RLock()
		defer p.hooks.RUnlock()
	}
	shared, _, _ := p.underway.Do(r.URL.Path, func() (any, error) {
		// Not the request's context: others may be waiting for the answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), probe.timeout)
		defer cancel()
		return p.ask(ctx, probe, r.UserAgent()), nil
	})
	a := shared.(answer)
	if probe.hook && a.none {
		// The kubelet takes any answer to a hook for success, so where the
		// application gave none there must be none from us.
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(a.status)
}

// answer is what the caller is told.
type answer struct {
	status int
	none   bool // the application did not answer; status says why
}

// ask returns the application's own status, or what stands for it: 200 for a
// redirect, an open port or a gRPC service that serves, 503 for a service that does
// not, 502 where nothing answers in the probe's protocol or at all, 504 where it is
// too slow.
func (p *prober) ask(ctx context.Context, probe probe, agent string) answer {
	target := net.JoinHostPort(p.address.String(), strconv.Itoa(int(probe.port)))
	var err error
	status := http.StatusOK
	switch {
	case probe.http != nil:
		status, err = askHTTP(ctx, target, probe.http, agent)
		if probe.hook && errors.Is(err, http.ErrSchemeMismatch) {
			// For the sake of hooks from when it knew no HTTPS, the kubelet, too,
			// tries again without.
			plain := *probe.http
			plain.scheme = "http"
			status, err = askHTTP(ctx, target, &plain, agent)
		}
	case probe.grpc != nil:
		status, err = askGRPC(ctx, target, probe.grpc, agent)
	default:
		err = askTCP(ctx, target)
	}
	late, ok := errors.AsType[net.Error](err) // a connection's clock may strike before the context's
	switch {
	case ctx.Err() != nil, ok && late.Timeout():
		return answer{status: http.StatusGatewayTimeout, none: true}
	case err != nil, status < 200, status > 599:
		return answer{status: http.StatusBadGateway, none: true}
	case status >= 300 && status < 400:
		return answer{status: http.StatusOK}
	}
	return answer{status: status}
}

func askTCP(ctx context.Context, target string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return conn.Close()
}

// askGRPC asks the standard health service. A service that it does not know is as
// little healthy as one that does not serve.
func askGRPC(ctx context.Context, target string, probe *grpcProbe, agent string) (int, error) {
	conn, err := grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // as the kubelet: Kubernetes knows no gRPC probe with TLS
		grpc.WithUserAgent(kubeletAgent(agent)),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxProbeBody)),
	)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: probe.service})
	switch {
	case grpcstatus.Code(err) == codes.NotFound:
		return http.StatusServiceUnavailable, nil
	case grpcstatus.Code(err) == codes.DeadlineExceeded: // says the server, perhaps, which was told how long it has
		return 0, context.DeadlineExceeded
	case err != nil:
		return 0, err
	case health.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return http.StatusServiceUnavailable, nil
	}
	return http.StatusOK, nil
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

// staysHere lets a client follow redirects to where it asked, the same port of the
// same host. Any other ends the probe there, successfully: the application does
// answer, and what it names was not what the author wanted probed.
func staysHere(next *http.Request, via []*http.Request) error {
	if asked := via[0].URL; next.URL.Hostname() != asked.Hostname() || portIn(next.URL) != portIn(asked) {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxProbeRedirects {
		return errors.New("too many redirects")
	}
	return nil
}

func portIn(u *url.URL) string {
	switch {
	case u.Port() == "" && u.Scheme == "https":
		return "443"
	case u.Port() == "":
		return "80"
	}
	return u.Port()
}

// kubelet is what it calls itself when it probes and when it calls a hook; some
// vendors' minor versions end in +.
var kubelet = regexp.MustCompile(`^kube-(probe|lifecycle)/[0-9]{1,3}\.[0-9]{1,3}\+?$`)

// kubeletAgent passes on the kubelet's own name, by which people keep probes out
// of their logs, and gives that name to everyone else.
func kubeletAgent(agent string) string {
	if kubelet.MatchString(agent) {
		return agent
	}
	return "kube-probe/"
}
