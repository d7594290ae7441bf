package inject

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Options are what an installation may choose about injection: the file of settings.
// Zero values mean the defaults given.
type Options struct {
	Image            string            `json:"image"`            // of the sidecar, a full reference; required
	DebugImage       string            `json:"debugImage"`       // of the sidecar where Privileged; default: Image with -debug before its tag
	ImagePullPolicy  corev1.PullPolicy `json:"imagePullPolicy"`  // IfNotPresent
	ImagePullSecrets []string          `json:"imagePullSecrets"` // names that every injected pod gets besides its own
	Privileged       bool              `json:"privileged"`       // whether people may use sudo and tcpdump in the sidecar
	TrustDomain      string            `json:"trustDomain"`      // cluster.local
	CAAddress        string            `json:"caAddress"`        // host:port of Citadel; the host is the name it must prove
	Revision         string            `json:"revision"`         // default

	// Policy says what becomes of a selected pod that says nothing itself: enabled, the
	// default, or disabled. The selectors come before it: a pod that one of NeverInject
	// matches is left out, one that one of AlwaysInject matches is injected.
	Policy       string                 `json:"policy"`
	NeverInject  []metav1.LabelSelector `json:"neverInject"`
	AlwaysInject []metav1.LabelSelector `json:"alwaysInject"`

	// Defaults are annotations of the mesh: they hold for every pod whose own and whose
	// namespace's annotations do not say otherwise.
	Defaults map[string]string `json:"defaults"`

	// TemplateAliases are names for several templates at once.
	TemplateAliases map[string][]string `json:"templateAliases"`

	// ProbeFrom says whom the agents answer on their port: node, the default; any; or
	// CIDR ranges, comma separated.
	ProbeFrom string `json:"probeFrom"`

	// Trust says what pods may ask for. The first rule that matches a namespace holds.
	Trust []TrustRule `json:"trust"`
}

// ParseOptions reads a file of settings, YAML or JSON. Unknown fields are errors.
func ParseOptions(file []byte) (Options, error) {
	var o Options
	if err := yaml.UnmarshalStrict(file, &o); err != nil {
		text := err.Error()
		for _, prefix := range []string{"error unmarshaling JSON: ", "while decoding JSON: ", "json: "} {
			text = strings.TrimPrefix(text, prefix)
		}
		return o, errors.New("settings: " + text)
	}
	return o, nil
}

// Settings are Options that hold: only [NewSettings] makes them. They are not
// changed afterwards; [Settings.WithOverlays] gives others.
type Settings struct {
	image, debugImage         string
	pullPolicy                corev1.PullPolicy
	pullSecrets               []string
	privileged                bool
	trustDomain               identity.TrustDomain
	caAddress                 string
	revision                  string
	enabled                   bool
	neverInject, alwaysInject []labels.Selector
	aliases                   map[string][]string
	probeFrom                 list
	trust                     []trustRule
	overlays                  Overlays
	standards                 policy.Evaluator // of pod security

	defaults map[string]string
	mesh     options           // what a pod gets that says nothing
	table    []mesh.Annotation // that parsers read
	native   sidecar           // for pods that say nothing
	classic  sidecar
}

// NewSettings checks options and fills in the defaults. The error reports every
// mistake.
func NewSettings(o Options) (Settings, error) {
	s := Settings{
		image:       o.Image,
		pullPolicy:  cmp.Or(o.ImagePullPolicy, corev1.PullIfNotPresent),
		pullSecrets: o.ImagePullSecrets,
		privileged:  o.Privileged,
		caAddress:   cmp.Or(o.CAAddress, fmt.Sprintf("%s.%s.svc:%d", mesh.CitadelService, mesh.SystemNamespace, mesh.CSRPort)),
		revision:    cmp.Or(o.Revision, mesh.DefaultRevision),
		aliases:     o.TemplateAliases,
		defaults:    o.Defaults,
		table:       parsed(),
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.image == "" {
		fail("image: missing")
	}
	var err error
	if s.debugImage, err = debugImage(o); err != nil && o.Privileged {
		errs = append(errs, err)
	}
	for _, image := range []string{s.image, s.debugImage} {
		if _, err := parseImage(image); image != "" && err != nil {
			fail("image %q: %w", image, err)
		}
	}
	switch s.pullPolicy {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		fail("imagePullPolicy %q: neither Always, IfNotPresent nor Never", s.pullPolicy)
	}
	for _, name := range s.pullSecrets {
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			fail("imagePullSecrets %q: %s", name, strings.Join(problems, "; "))
		}
	}
	s.trustDomain = identity.DefaultTrustDomain
	if o.TrustDomain != "" {
		if s.trustDomain, err = identity.ParseTrustDomain(o.TrustDomain); err != nil {
			fail("trustDomain: %w", err)
		}
	}
	if err := checkAddress(s.caAddress); err != nil {
		fail("caAddress %q: %w", s.caAddress, err)
	}
	if problems := validation.IsValidLabelValue(s.revision); len(problems) > 0 {
		fail("revision %q: %s", s.revision, strings.Join(problems, "; "))
	}
	switch o.Policy {
	case "", "enabled":
		s.enabled = true
	case "disabled":
	default:
		fail("policy %q: neither enabled nor disabled", o.Policy)
	}
	s.neverInject, err = selectors("neverInject", o.NeverInject)
	errs = append(errs, err)
	s.alwaysInject, err = selectors("alwaysInject", o.AlwaysInject)
	errs = append(errs, err)
	s.probeFrom, err = parseProbeFrom(o.ProbeFrom)
	errs = append(errs, err)
	s.trust, err = compileTrust(o.Trust)
	errs = append(errs, err)
	s.mesh, err = s.meshOptions()
	errs = append(errs, err)
	errs = append(errs, s.checkAliases())
	s.standards, err = policy.NewEvaluator(policy.DefaultChecks(), nil)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return Settings{}, err
	}
	if s.native, err = render(s, s.mesh, true); err == nil {
		s.classic, err = render(s, s.mesh, false)
	}
	return s, err
}

// Hash names the configuration in the status annotation of the pods made from it.
// Equal hashes mean that a pod without annotations would get the same sidecar.
func (s Settings) Hash() string { return s.native.hash }

// Revision is the injector's.
func (s Settings) Revision() string { return s.revision }

// sidecar returns what a pod with these options gets.
func (s Settings) sidecar(o options, native bool) (sidecar, error) {
	switch {
	case o.custom:
		return render(s, o, native)
	case native:
		return s.native, nil
	}
	return s.classic, nil
}

// meshOptions parses the defaults of the mesh over what is built in.
func (s Settings) meshOptions() (options, error) {
	o := builtin()
	var errs []error
	known := map[string]mesh.Annotation{}
	for _, a := range s.table {
		known[a.Name] = a
	}
	for _, name := range slices.Sorted(maps.Keys(s.defaults)) {
		a, ok := known[name]
		value := s.defaults[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("defaults[%s]: no annotation that pods may write", name))
		case a.PodOnly:
			errs = append(errs, fmt.Errorf("defaults[%s]: means something on a pod only", name))
		default:
			if err := parsers[name].set(&o, value); err != nil {
				errs = append(errs, fmt.Errorf("defaults[%s]: %s is %w", name, quote(value), err))
			}
		}
	}
	if len(errs) == 0 {
		o.ownResources = true // held against each other once, here
		if err := o.check(&Pod{}, mesh.Namespace{}); err != nil {
			errs = append(errs, err)
		}
		o.ownResources = false
	}
	return o, errors.Join(errs...)
}

func selectors(field string, from []metav1.LabelSelector) ([]labels.Selector, error) {
	var all []labels.Selector
	for i := range from {
		selector, err := metav1.LabelSelectorAsSelector(&from[i])
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		case selector.Empty():
			return nil, fmt.Errorf("%s[%d]: empty, it would match every pod", field, i)
		}
		all = append(all, selector)
	}
	return all, nil
}

// parseProbeFrom returns what the agent is told: nothing for what it does by itself.
func parseProbeFrom(value string) (list, error) {
	switch value {
	case "", "node":
		return "", nil
	case "any":
		return "any", nil
	}
	ranges, err := parseList(value, false, func(word string) (string, error) {
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			return word, errors.New("not a range such as 10.0.0.0/8")
		}
		return prefix.Masked().String(), nil
	})
	if err != nil {
		return "", fmt.Errorf("probeFrom: neither node, any nor ranges: %s is %w", quote(value), err)
	}
	return ranges, nil
}

// imageFor returns the sidecar's image.
func (s Settings) imageFor(o options) string {
	standard := s.image
	if s.privileged {
		standard = s.debugImage
	}
	switch {
	case o.image == "":
		return standard
	case strings.Contains(o.image, "/"):
		return o.image
	}
	return sibling(standard, o.image)
}

// sibling puts another name in the place of an image's last one.
func sibling(image, name string) string {
	repository, tag := image, ""
	if at := strings.LastIndexAny(image, ":@"); at > strings.LastIndexByte(image, '/') { // else the colon is that of a registry's port
		repository, tag = image[:at], image[at:]
		if name, _, pinned := strings.Cut(image, "@"); pinned {
			repository, tag = name, "" // no other image has that digest
		}
	}
	if strings.Contains(name, ":") {
		tag = ""
	}
	return repository[:strings.LastIndexByte(repository, '/')+1] + name + tag
}

// parseImage holds a reference to characters that references have.
func parseImage(value string) (string, error) {
	if value == "" || len(value) > 512 || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return "", errors.New("not an image reference")
	}
	return value, nil
}

// debugImage returns the sidecar's image for people who look into it.
func debugImage(o Options) (string, error) {
	if o.DebugImage != "" {
		return o.DebugImage, nil
	}
	tag := strings.LastIndexByte(o.Image, ':')
	switch {
	case strings.Contains(o.Image, "@"):
		return "", fmt.Errorf("debugImage: missing, and no digest follows from that of %q", o.Image)
	case o.Image == "":
		return "", nil
	case tag > strings.LastIndexByte(o.Image, '/'):
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
