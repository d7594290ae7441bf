package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Mode says which kind of CA is to sign. The zero value decides by what there is.
type Mode struct{ name string }

// The modes. Auto is a plugged-in CA where there is one or was one last, else a
// self-signed one.
var (
	Auto       = Mode{}
	SelfSigned = Mode{mesh.CASelfSigned}
	Plugged    = Mode{mesh.CAPlugged}
)

// ParseMode reads auto, self-signed or plugged.
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{Auto, SelfSigned, Plugged} {
		if m.String() == s {
			return m, nil
		}
	}
	return Mode{}, fmt.Errorf("%q: auto, self-signed or plugged", s)
}

func (m Mode) String() string {
	if m.name == "" {
		return "auto"
	}
	return m.name
}

// Material is what an [Authority] is made from, as it was found. Whether it is any
// good is seen by [Start] and [Authority.Replace].
type Material struct {
	Mode         Mode
	Root         *corev1.Secret // istio-ca-secret, nil where there is none
	Intermediate *corev1.Secret // garrison-ca-intermediate, nil where there is none
	Direct       bool           // the root signs leaves itself, Intermediate is not looked at
	Plugged      *PluggedFiles  // nil where there are none

	// DomainChosen is whether somebody chose the trust domain: a plugged-in root may
	// have signed for several, so the default would be a guess.
	DomainChosen bool

	// Trusted are the roots in PEM that workloads hold already, where known. Only Start
	// looks at it; later on the authority knows.
	Trusted []byte
}

// UsesPlugged reports whether a plugged-in CA signs, or should and is gone.
func (m Material) UsesPlugged() bool {
	if m.Mode != Auto {
		return m.Mode == Plugged
	}
	return m.Plugged != nil || m.Intermediate != nil && remembered(m.Intermediate) == mesh.CAPlugged
}

// origin is where an issuer came from.
type origin struct {
	plugged bool
	from    string // for people: a Secret or a directory
	root    *root  // of a self-signed one
	direct  bool
}

// issuer makes the issuer of what was found. There is no second choice: what should
// sign and cannot is an error.
func (m Material) issuer(o Options, now time.Time) (*issuer, error) {
	if m.UsesPlugged() {
		return m.plugged(o, now)
	}
	if m.Root == nil {
		return nil, fmt.Errorf("secret %s: is not there", mesh.CASecret)
	}
	r, err := readRoot(m.Root)
	if err != nil {
		return nil, inSecret(m.Root, err)
	}
	var i *issuer
	from := m.Root
	if m.Direct {
		i, err = r.issuer()
	} else if from = m.Intermediate; from == nil {
		return nil, fmt.Errorf("secret %s: is not there", mesh.IntermediateSecret)
	} else {
		i, err = r.below(m.Intermediate)
	}
	if err != nil {
		return nil, inSecret(from, err)
	}
	i.origin = origin{from: nameOf(from), root: r, direct: m.Direct}
	return i, nil
}

func (m Material) plugged(o Options, now time.Time) (*issuer, error) {
	if m.Plugged == nil {
		return nil, fmt.Errorf("the plugged-in CA is gone: put secret %s back; "+
			"a self-signed one takes its place only if --ca=self-signed says so", mesh.PluggedSecret)
	}
	if !m.DomainChosen {
		return nil, fmt.Errorf("%s: a plugged-in CA may sign for several trust domains, and nobody chose this mesh's: "+
			"set trust-domain, to %s if that is the one, in manifests/base/settings/citadel.yaml and install again, or by --trust-domain; "+
			"trustDomain of the injector has to be the same", m.Plugged.From, o.TrustDomain)
	}
	i, err := m.Plugged.issuer(o, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Plugged.From, err)
	}
	i.origin = origin{plugged: true, from: m.Plugged.From}
	return i, nil
}

func nameOf(s *corev1.Secret) string { return "secret " + s.Namespace + "/" + s.Name }

func inSecret(s *corev1.Secret, err error) error { return fmt.Errorf("%s: %w", nameOf(s), err) }

// errFallBack: even if somebody asks for it, that takes a start, which looks at the roots.
var errFallBack = errors.New("a self-signed CA does not take the place of a plugged-in one while this process runs")

// succeeds reports why i must not take the place of last, nil at start, where
// workloads hold the trusted roots. It is about roots that people bring: while a
// workload does not know a root, it refuses all that hangs from it.
func (i *issuer) succeeds(last *issuer, trusted []*x509.Certificate, now time.Time) error {
	lacks := func(roots, wanted []*x509.Certificate) (missing []*x509.Certificate) {
		for _, c := range wanted {
			if !slices.ContainsFunc(roots, c.Equal) {
				missing = append(missing, c)
			}
		}
		return missing
	}
	missing := slices.DeleteFunc(lacks(i.roots, trusted), func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	if len(missing) == 0 {
		return nil
	}
	if !slices.ContainsFunc(i.anchors, func(c *x509.Certificate) bool { return slices.ContainsFunc(trusted, c.Equal) }) {
		return fmt.Errorf("%s: signs below a root that no workload trusts yet, and its roots lack the one in use (%s): "+
			"add that to %s, behind the new one, and take it out when all certificates have been renewed",
			i.origin.from, describe(missing), mesh.RootKey)
	}
	if last != nil && len(lacks(i.roots, last.anchors)) == len(last.anchors) {
		return fmt.Errorf("%s: its roots lack the one that has signed until now (%s): "+
			"leave that in %s until all certificates have been renewed", i.origin.from, describe(last.anchors), mesh.RootKey)
	}
	return nil
}

func describe(certs []*x509.Certificate) string {
	var names []string
	for _, c := range certs {
		names = append(names, fmt.Sprintf("%s, SHA-256 %s", c.Subject, fingerprint(c)))
	}
	return strings.Join(names, "; ")
}
