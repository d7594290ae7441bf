package ca

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Held is what some place holds: a certificate, or a bundle of roots. Nothing in it is
// secret. Its JSON is for programs: fields stay.
type Held struct {
	Holds       string    `json:"holds"`             // HoldsWorkload, HoldsRoots or a role of [Status]
	Account     string    `json:"account,omitempty"` // of a workload: that the place belongs to
	ID          string    `json:"id,omitempty"`      // of a workload: SPIFFE ID in the certificate
	Subject     string    `json:"subject,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256 of the DER, hex
	NotAfter    time.Time `json:"notAfter,omitzero"`     // of a bundle: when the first root ends
	Key         string    `json:"key,omitempty"`         // KeyFits, KeyWrong or KeyAbsent where a key belongs to it
	Signer      string    `json:"signer,omitempty"`      // fingerprint of what signed it
	Roots       []string  `json:"roots,omitempty"`       // fingerprints: which it chains to, or of all in a bundle
	Problems    []string  `json:"problems,omitempty"`    // for people; none where it is as it should be
	Notes       []string  `json:"notes,omitempty"`       // what is well, and worth knowing
}

// What else than one certificate of a CA a place can hold, in [Held].
const (
	HoldsWorkload = "workload" // the certificate of a service account
	HoldsRoots    = "roots"    // a bundle that others are verified by
)

// How a private key stands to its certificate, in [Held].
const (
	KeyFits   = "fits"
	KeyWrong  = "wrong"
	KeyAbsent = "absent"
)

// RootsInUse are what places are held to. The zero value stands for roots that are not
// known: then nothing is held to them.
type RootsInUse struct{ certs []*x509.Certificate }

// ReadRootsInUse reads a bundle in PEM.
func ReadRootsInUse(bundle []byte) (RootsInUse, error) {
	certs, err := parseCertificates(bundle)
	return RootsInUse{certs}, err
}

// Bundle looks into a bundle of roots. It should hold the roots in use, in any order, and
// no others.
func (r RootsInUse) Bundle(text []byte, now time.Time) Held {
	h := Held{Holds: HoldsRoots}
	certs, err := parseCertificates(text)
	if err != nil {
		h.problem("%v", err)
		return h
	}
	for _, c := range certs {
		if h.NotAfter.IsZero() || c.NotAfter.Before(h.NotAfter) {
			h.NotAfter = c.NotAfter
		}
		h.Roots = append(h.Roots, fingerprint(c))
		if now.After(c.NotAfter) {
			h.problem("root %s ended at %s", Short(fingerprint(c)), c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	r.compare(&h, "", certs)
	return h
}

// compare says how a bundle differs from the roots in use.
func (r RootsInUse) compare(h *Held, at string, certs []*x509.Certificate) {
	if len(r.certs) == 0 {
		return
	}
	for _, c := range r.certs {
		if !slices.ContainsFunc(certs, c.Equal) {
			h.problem("%slacks root %s, which is in use", at, Short(fingerprint(c)))
		}
	}
	for _, c := range certs {
		if !slices.ContainsFunc(r.certs, c.Equal) {
			h.problem("%strusts root %s, which is not in use", at, Short(fingerprint(c)))
		}
	}
}

// Secret looks into the Secret of a service account. It knows fewer settings than
// [Authority.CheckSecret], by which Citadel decides, and so finds less.
func (r RootsInUse) Secret(s *corev1.Secret, now time.Time) Held {
	h := Held{Holds: HoldsWorkload}
	account, named := accountOf(s.Name)
	if h.Account = account; !named {
		h.problem("its name is not %s<service account>", mesh.WorkloadSecretPrefix)
	}
	certs, err := parseCertificates(s.Data[mesh.CertChain])
	if err != nil {
		h.problem("%s: %v", mesh.CertChain, err)
		return h
	}
	leaf := certs[0]
	h.describe(leaf)
	if _, err := tls.X509KeyPair(s.Data[mesh.CertChain], s.Data[mesh.CertKey]); err == nil {
		h.Key = KeyFits // for whoever serves with it, whatever else is in the file
	} else {
		h.key(leaf, mesh.CertKey, s.Data)
	}
	if len(leaf.URIs) == 1 {
		h.ID = leaf.URIs[0].String()
	}
	if id, err := identity.Parse(h.ID); err != nil {
		h.problem("certificate names no service account: %v", err)
	} else if id.Namespace() != s.Namespace || named && id.Account() != account {
		h.problem("certificate is that of account %s/%s", id.Namespace(), id.Account())
	}
	roots, err := parseCertificates(s.Data[mesh.CertRoot])
	if err != nil {
		h.problem("%s: %v", mesh.CertRoot, err)
	} else {
		r.compare(&h, mesh.CertRoot+" ", roots)
	}
	r.follow(&h, certs, roots, now)
	return h
}

// CASecret looks into a Secret of the CA: istio-ca-secret, garrison-ca-intermediate or
// cacerts, in either layout. It returns what each certificate in it is.
func (r RootsInUse) CASecret(s *corev1.Secret, now time.Time) []Held {
	var all []Held
	keyName := mesh.CAKeyKey
	files := []struct{ name, role string }{
		{mesh.CACertKey, SignerRole}, {mesh.CertChain, IntermediateRole}, {mesh.EarlierCertsKey, EarlierRole}, {mesh.RootKey, RootRole},
	}
	if _, istio := s.Data[mesh.CACertKey]; !istio && len(s.Data["tls.crt"]) > 0 {
		keyName = "tls.key"
		files = files[:2]
		files[0].name, files[1] = "tls.crt", struct{ name, role string }{"ca.crt", RootRole}
	}
	var found []*x509.Certificate // one for each of all, nil where it cannot be read
	for n, f := range files {
		text := trimSpace(s.Data[f.name])
		if len(text) == 0 && (n > 0 || s.Type == mesh.IntermediateSecretType) { // which may hold no more than a note
			continue
		}
		certs, err := parseCertificates(text)
		if err != nil {
			h := Held{Holds: f.role}
			h.problem("%s: %v", f.name, err)
			all, found = append(all, h), append(found, nil)
			continue
		}
		for i, c := range certs {
			if slices.ContainsFunc(found, c.Equal) {
				continue // chains may begin with the signer and end with the root
			}
			h := Held{Holds: f.role}
			switch {
			case isRoot(c):
				h.Holds = RootRole
			case n == 0 && i > 0:
				h.Holds = IntermediateRole
			}
			h.describe(c)
			if n == 0 && i == 0 {
				h.key(c, keyName, s.Data)
			}
			all, found = append(all, h), append(found, c)
		}
	}
	certs := slices.DeleteFunc(slices.Clone(found), func(c *x509.Certificate) bool { return c == nil })
	for i, c := range found {
		if c != nil {
			r.follow(&all[i], slices.Concat([]*x509.Certificate{c}, certs), nil, now)
		}
	}
	return all
}

func isRoot(c *x509.Certificate) bool {
	return checkKey(c.PublicKey) == nil && selfIssued(c) && c.CheckSignatureFrom(c) == nil
}

// follow finds out what signed the first of certs and which root it hangs from: where it
// is none in use, one that is found beside it.
func (r RootsInUse) follow(h *Held, certs, own []*x509.Certificate, now time.Time) {
	h.dates(certs[0], now)
	at := within(certs[0], now) // that it has ended is said already
	beside := slices.Concat(own, certs)
	if len(r.certs) == 0 {
		if err := h.path(certs, beside, at); err != nil {
			h.problem("does not verify by a root that is with it: %v", err)
		}
		return
	}
	if err := h.path(certs, r.certs, at); err != nil {
		h.problem("does not verify by the roots in use: %v", err)
		_ = h.path(certs, beside, at) // only to name the root
	}
}

// path verifies the first of certs by those of roots that are some, and keeps how it went.
func (h *Held) path(certs, roots []*x509.Certificate, at time.Time) error {
	o := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, c := range slices.Concat(certs, roots) {
		if err := checkKey(c.PublicKey); err != nil { // a huge one would take long to verify with
			return fmt.Errorf("certificate %q: key: %w", c.Subject, err)
		}
	}
	for _, c := range roots {
		if isRoot(c) {
			o.Roots.AddCert(c)
		}
	}
	for _, c := range certs[1:] {
		o.Intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(o)
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return errors.New("signed by none of them")
	}
	if err != nil {
		return err
	}
	h.Signer, h.Roots = "", nil
	for _, chain := range chains {
		if root := fingerprint(chain[len(chain)-1]); !slices.Contains(h.Roots, root) {
			h.Roots = append(h.Roots, root)
		}
		if len(chain) > 1 {
			h.Signer = cmp.Or(h.Signer, fingerprint(chain[1]))
		}
	}
	return nil
}

// within returns the time in a certificate's life that is nearest to now.
func within(c *x509.Certificate, now time.Time) time.Time {
	switch {
	case now.Before(c.NotBefore):
		return c.NotBefore
	case now.After(c.NotAfter):
		return c.NotAfter
	}
	return now
}

func (h *Held) describe(c *x509.Certificate) {
	h.Subject, h.Fingerprint, h.NotAfter = c.Subject.String(), fingerprint(c), c.NotAfter
}

func (h *Held) dates(c *x509.Certificate, now time.Time) {
	switch {
	case now.After(c.NotAfter):
		h.problem("ended at %s", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		h.problem("not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
	}
}

// key says whether a key is the certificate's. That of a root may be elsewhere.
func (h *Held) key(c *x509.Certificate, name string, data map[string][]byte) {
	text := trimSpace(data[name])
	if len(text) == 0 {
		if h.Key = KeyAbsent; h.Holds == RootRole {
			h.Notes = append(h.Notes, "key offline")
		} else {
			h.problem("%s: not there", name)
		}
		return
	}
	key, err := parsePrivateKey(text)
	if err == nil && !equalKeys(c.PublicKey, key.Public()) {
		err = errors.New("not the key of the certificate")
	}
	if h.Key = KeyFits; err != nil {
		h.Key = KeyWrong
		h.problem("%s: %v", name, err)
	}
}

func (h *Held) problem(format string, args ...any) {
	h.Problems = append(h.Problems, fmt.Sprintf(format, args...))
}

// Short is how fingerprints are shown to people, and in the labels of metrics.
func Short(fingerprint string) string { return fingerprint[:min(len(fingerprint), 16)] }
