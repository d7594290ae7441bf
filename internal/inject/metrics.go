package inject

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Of scraping, where the pod's author says nothing.
const (
	defaultMetricsPath = "/metrics"
	defaultMetricsPort = 80
)

// scrape is what the pod's author wrote about scraping, as the agent reads it.
type scrape struct {
	Scrape string `json:"scrape,omitempty"`
	Port   string `json:"port,omitempty"`
	Path   string `json:"path,omitempty"`
}

// prometheusPrefix is how Prometheus sees the annotations of the trio: it reads any
// character that is no letter or digit as _.
const prometheusPrefix = "prometheus_io_"

// trio finds the pod's prometheus.io annotations in whatever spelling Prometheus
// would read alike, and the names under which they stand. The proper spelling wins, then
// the first by name.
func trio(annotations map[string]string) (s scrape, names []string) {
	for name := range annotations {
		if strings.HasPrefix(name, "prometheus") && s.field(name) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	said := map[*string]bool{}
	for _, proper := range []bool{true, false} {
		for _, name := range names {
			if field := s.field(name); isTrio(name) == proper && !said[field] {
				*field, said[field] = annotations[name], true
			}
		}
	}
	return s, names
}

// field returns what an annotation says, or nil.
func (s *scrape) field(annotation string) *string {
	switch sanitised(annotation) {
	case prometheusPrefix + "scrape":
		return &s.Scrape
	case prometheusPrefix + "port":
		return &s.Port
	case prometheusPrefix + "path":
		return &s.Path
	}
	return nil
}

func isTrio(name string) bool {
	return name == mesh.PrometheusScrape || name == mesh.PrometheusPort || name == mesh.PrometheusPath
}

func sanitised(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
}

func (m *metrics) parseMerge(value string) error {
	merge, err := parseBool(value)
	m.merge = no
	if merge {
		m.merge = yes
	}
	return err
}

// merged reports whether the agent is to give all metrics of the pod: where anybody
// said so, or where the pod's author wants to be scraped. Elsewhere a neighbour that
// asks the agent's port learns nothing.
func (m metrics) merged(s scrape) bool {
	if s.Scrape == "false" {
		return false
	}
	return m.merge == yes || m.merge == unsaid && (s.Scrape == "true" || m.targets != "")
}

// check holds what is scraped apart from the sidecar's own ports.
func (m metrics) check(statusPort uint16, field string) error {
	for target := range strings.SplitSeq(string(m.targets), ",") {
		port, _, _ := strings.Cut(target, ":")
		if n, err := parsePort(port); err == nil && slices.Contains(reservedPorts(statusPort), n) {
			return &Refusal{Reason: BadAnnotation, Field: field, Problem: fmt.Sprintf("port %d is the sidecar's own", n)}
		}
	}
	return nil
}

// checkScrape refuses what the agent could not ask.
func (s scrape) check(statusPort uint16) error {
	if s.Scrape != "true" {
		return nil
	}
	if s.Port != "" {
		port, err := parsePort(s.Port)
		if err != nil {
			return annotationRefusal(mesh.PrometheusPort, s.Port, err.Error())
		}
		if slices.Contains(reservedPorts(statusPort), port) {
			return annotationRefusal(mesh.PrometheusPort, s.Port, "the sidecar's own port")
		}
	}
	if s.Path != "" {
		if err := checkPath(s.Path); err != nil {
			return annotationRefusal(mesh.PrometheusPath, s.Path, err.Error())
		}
	}
	return nil
}

// mergeMetrics points Prometheus at the agent, and tells the agent what the
// annotations said before.
func mergeMetrics(e *edit) {
	s, names := trio(e.pod.meta.Annotations)
	e.scrape = nil
	if !e.options.metrics.merged(s) {
		return
	}
	status := strconv.Itoa(int(e.options.statusPort()))
	if s.Port == status && s.Path == mesh.MetricsPath { // as an earlier injection left them
		s, names = scrape{}, nil
	}
	if err := s.check(e.options.statusPort()); err != nil {
		e.fail(err)
		return
	}
	for _, name := range names {
		if !isTrio(name) {
			e.remove("/metadata/annotations" + pointer(name))
		}
	}
	e.scrape = &s
	e.annotate(mesh.PrometheusScrape, "true")
	e.annotate(mesh.PrometheusPort, status)
	e.annotate(mesh.PrometheusPath, mesh.MetricsPath)
}

// env is the variable that carries it to the agent.
func (s scrape) env() (string, error) {
	raw, err := json.Marshal(s)
	return string(raw), err
}
