package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Metrics says whether the agent gives Envoy's metrics and the application's
// together, and where the application's are. The zero value does not.
type Metrics struct {
	merged  bool
	targets []metricsTarget // in the order of the answer
}

type metricsTarget struct {
	port uint16
	path url.URL
}

// ParseMetrics reads what the injector made of the pod's annotations: those about
// scraping, as JSON (mesh.PrometheusEnv), and the list of targets
// (mesh.ScrapeTargetsEnv), which says it better where there is one. "" is absent;
// without either, nothing is merged. A target on a port of the sidecar's own, of
// which the agent's is one, is an error.
func ParseMetrics(annotations, targets string, own uint16) (Metrics, error) {
	if annotations == "" && targets == "" {
		return Metrics{}, nil
	}
	var words []string
	if annotations != "" {
		var a struct{ Scrape, Port, Path string }
		if err := json.Unmarshal([]byte(annotations), &a); err != nil {
			return Metrics{}, fmt.Errorf("not a JSON object of strings: %w", err)
		}
		if a.Scrape == "true" {
			words = []string{cmp.Or(a.Port, "80") + ":" + a.Path}
		}
	}
	if targets != "" {
		words = strings.Split(targets, ",")
	}
	m := Metrics{merged: true}
	for _, word := range words {
		t, err := parseMetricsTarget(strings.TrimSpace(word), own)
		if err != nil {
			return Metrics{}, fmt.Errorf("%q: %w", word, err)
		}
		if !slices.Contains(m.targets, t) {
			m.targets = append(m.targets, t)
		}
	}
	return m, nil
}

// parseMetricsTarget reads port:path; without a path it is /metrics.
func parseMetricsTarget(word string, own uint16) (metricsTarget, error) {
	number, path, _ := strings.Cut(word, ":")
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return metricsTarget{}, fmt.Errorf("port %q: not from 1 to 65535", number)
	}
	if uint16(port) == own {
		return metricsTarget{}, fmt.Errorf("port %d: the agent's own", port)
	}
	if err := CheckStatusPort(uint16(port)); err != nil {
		return metricsTarget{}, err
	}
	return metricsTarget{port: uint16(port), path: parsePath(cmp.Or(path, "/metrics"))}, nil
}

const (
	scrapeTimeout    = 10 * time.Second // Prometheus' own default
	maxScrapeTimeout = time.Minute
	maxScrapes       = 16 // under way, of all callers
	maxScrapesOfOne  = 2

	scrapeFailures = "garrison_agent_scrape_failures_total"
)

// scraper gives Envoy's metrics and the application's together, always in the text
// format 0.0.4. The targets are asked one after the other, the application's at the
// pod's own address, as probes are. One that fails costs its own part of the answer
// and is counted in the last metric.
//
// Every neighbour may ask, as Prometheus does. Each is held to a few questions at a
// time, so that none crowds the others out.
type scraper struct {
	targets []*scrapeTarget
	log     *slog.Logger

	mu      sync.Mutex
	callers map[netip.Addr]int
	all     int
}

type scrapeTarget struct {
	name, url string
	failures  atomic.Uint64
}

func newScraper(m Metrics, envoyAdmin string, pod netip.Addr, log *slog.Logger) *scraper {
	s := &scraper{callers: map[netip.Addr]int{}, log: log, targets: []*scrapeTarget{
		{name: "envoy", url: "http://" + envoyAdmin + mesh.MetricsPath},
	}}
	for _, t := range m.targets {
		port := strconv.Itoa(int(t.port))
		u := t.path
		name := ":" + port + u.RequestURI()
		u.Scheme, u.Host = "http", net.JoinHostPort(pod.String(), port)
		s.targets = append(s.targets, &scrapeTarget{name: name, url: u.String()})
	}
	return s
}

// ServeHTTP answers GET. The query is nobody's business.
func (s *scraper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	from := caller(r)
	if !s.enter(from) {
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	defer s.leave(from)

	deadline := time.Now().Add(scrapeBudget(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds")))
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // the server's would end the request; an error means a recorder
	_ = control.SetWriteDeadline(deadline.Add(5 * time.Second))
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	out := newExposition(w)
	out.names[scrapeFailures] = said{help: true, kind: true, sample: true} // ours to describe
	for i, t := range s.targets {
		// A fair share of what is left: one that hangs leaves the rest their own.
		share := time.Until(deadline) / time.Duration(len(s.targets)-i)
		err := t.copy(r.Context(), out, share)
		if out.writeErr != nil || r.Context().Err() != nil {
			return // the caller is gone: no fault of the target's
		}
		if err != nil {
			t.failures.Add(1)
			s.log.DebugContext(r.Context(), "scrape failed", "target", t.name, "err", err)
		}
	}
	out.write(s.failures())
	out.flush()
}

// scrapeBudget is how long a scraper that waits for the seconds given is made to
// wait at most: less than it is willing to, or one slow target would cost it the
// answers of all.
func scrapeBudget(seconds string) time.Duration {
	patience := scrapeTimeout
	if s, err := strconv.ParseFloat(seconds, 64); err == nil && s > 0 {
		patience = time.Duration(min(s, maxScrapeTimeout.Seconds()) * float64(time.Second))
	}
	return patience - min(patience/5, time.Second)
}

// copy adds a target's metrics to out, within the time given.
func (t *scrapeTarget) copy(ctx context.Context, out *exposition, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, http.NoBody)
	if err != nil {
		return err
	}
	// Not what our caller accepts: of all formats only this one can be joined line by
	// line. Scrapers prefer others, and Envoy knows those, too.
	req.Header.Set("Accept", "text/plain;version=0.0.4,*/*;q=0.1")
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(limit.Seconds(), 'f', 3, 64))
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, CheckRedirect: staysHere}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	// A kind that cannot be read is judged by its lines.
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == "application/vnd.google.protobuf" {
		return fmt.Errorf("content type %s", kind)
	}
	return out.add(resp.Body, kind == "application/openmetrics-text")
}

// failures are the agent's own lines of the answer.
func (s *scraper) failures() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# HELP %s Targets of this pod that gave no metrics, or not all of theirs.\n# TYPE %[1]s counter\n", scrapeFailures)
	for _, t := range s.targets {
		name := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.ToValidUTF8(t.name, "?"))
		fmt.Fprintf(&b, "%s{target=\"%s\"} %d\n", scrapeFailures, name, t.failures.Load())
	}
	return b.Bytes()
}

func (s *scraper) enter(from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxScrapes || s.callers[from] >= maxScrapesOfOne {
		return false
	}
	s.all++
	s.callers[from]++
	return true
}

func (s *scraper) leave(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.callers[from]--; s.callers[from] == 0 {
		delete(s.callers, from)
	}
}
