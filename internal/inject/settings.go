package inject

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Options are what an installation may choose about the sidecar. Zero values mean
// the defaults given.
type Options struct {
	Image       string               // of the sidecar, a full reference; required
	DebugImage  string               // of the sidecar where Privileged; default: Image with -debug before its tag
	PullPolicy  corev1.PullPolicy    // IfNotPresent
	Privileged  bool                 // whether people may use sudo and tcpdump in the sidecar
	TrustDomain identity.TrustDomain // cluster.local
	CAAddress   string               // host:port of Citadel; the host is the name it must prove
	Revision    string               // default

	// Resources of the sidecar as quantities. The defaults are those of the
	// annotations in [mesh.Annotations].
	CPU, CPULimit, Memory, MemoryLimit string
}

// Settings are Options that hold: only [NewSettings] makes them.
type Settings struct {
	image       string
	pullPolicy  corev1.PullPolicy
	privileged  bool
	trustDomain identity.TrustDomain
	caAddress   string
	revision    string
	resources   resources
	rendered    rendered
}

// NewSettings checks options and fills in the defaults. The error reports every
// mistake.
func NewSettings(o Options) (Settings, error) {
	s := Settings{
		image:       o.Image,
		pullPolicy:  cmp.Or(o.PullPolicy, corev1.PullIfNotPresent),
		privileged:  o.Privileged,
		trustDomain: cmp.Or(o.TrustDomain, identity.DefaultTrustDomain),
		caAddress:   cmp.Or(o.CAAddress, fmt.Sprintf("%s.%s.svc:%d", mesh.CitadelService, mesh.SystemNamespace, mesh.CSRPort)),
		revision:    cmp.Or(o.Revision, mesh.DefaultRevision),
	}
	var errs []error
	if s.image == "" {
		errs = append(errs, errors.New("image: missing"))
	}
	if o.Privileged {
		image, err := debugImage(o)
		errs = append(errs, err)
		s.image = image
	}
	if strings.ContainsFunc(s.image, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, fmt.Errorf("image %q: not an image reference", s.image))
	}
	switch s.pullPolicy {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		errs = append(errs, fmt.Errorf("image pull policy %q: neither Always, IfNotPresent nor Never", s.pullPolicy))
	}
	if err := checkAddress(s.caAddress); err != nil {
		errs = append(errs, fmt.Errorf("CA address %q: %w", s.caAddress, err))
	}
	if problems := validation.IsValidLabelValue(s.revision); len(problems) > 0 {
		errs = append(errs, fmt.Errorf("revision %q: %s", s.revision, strings.Join(problems, "; ")))
	}
	resources, err := o.resources()
	errs = append(errs, err)
	s.resources = resources
	if err := errors.Join(errs...); err != nil {
		return Settings{}, err
	}
	s.rendered, err = render(s)
	return s, err
}

// Hash names the configuration in the status annotation of the pods made from it.
// Equal hashes mean that a pod without annotations would get the same sidecar.
func (s Settings) Hash() string { return s.rendered.hash }

// debugImage returns the sidecar's image for people who look into it.
func debugImage(o Options) (string, error) {
	if o.DebugImage != "" {
		return o.DebugImage, nil
	}
	tag := strings.LastIndexByte(o.Image, ':')
	switch {
	case strings.Contains(o.Image, "@"):
		return "", fmt.Errorf("debug image: missing, and no digest follows from that of %q", o.Image)
	case tag > strings.LastIndexByte(o.Image, '/'): // else the colon is that of a registry's port
		return o.Image[:tag] + "-debug" + o.Image[tag:], nil
	}
	return o.Image + "-debug", nil
}

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return errors.New("not of the form host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("the port is not a number from 1 to 65535")
	}
	return nil
}

// resources parses the options as the annotations that override them are parsed.
func (o Options) resources() (resources, error) {
	chosen := map[string]struct{ what, value string }{
		mesh.ProxyCPU:         {"CPU request", o.CPU},
		mesh.ProxyCPULimit:    {"CPU limit", o.CPULimit},
		mesh.ProxyMemory:      {"memory request", o.Memory},
		mesh.ProxyMemoryLimit: {"memory limit", o.MemoryLimit},
	}
	var parsed options
	var errs []error
	for _, known := range mesh.Annotations() {
		c, ok := chosen[known.Name]
		if !ok {
			continue
		}
		value := cmp.Or(c.value, known.Default)
		if err := parsers[known.Name](&parsed, value); err != nil {
			errs = append(errs, fmt.Errorf("%s of the sidecar: %s is %w", c.what, quote(value), err))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, parsed.resources.check(func(request, limit string, asked, allowed resource.Quantity) error {
			return fmt.Errorf("%s of the sidecar: %s is more than the %s, %s", chosen[request].what, &asked, chosen[limit].what, &allowed)
		}))
	}
	return parsed.resources, errors.Join(errs...)
}
