package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// PluggedFiles is a CA that the operator brings: a signing certificate, its key, what
// lies between it and a root, the roots, and a revocation list if there is one, in PEM
// by the names of Istio (ca-cert.pem, …) or of a Secret of type kubernetes.io/tls.
type PluggedFiles struct {
	From   string // for people: a Secret or a directory
	Files  map[string][]byte
	Unread []string // why files that should be there could not be read
}

// layout is a way to name the files. The chain is empty where the certificate's file
// holds it.
type layout struct{ cert, key, chain, roots string }

// layouts are Istio's and that of cert-manager and its like.
var layouts = []layout{
	{mesh.CACertKey, mesh.CAKeyKey, mesh.CertChain, mesh.RootKey},
	{"tls.crt", "tls.key", "", "ca.crt"},
}

func (l layout) files() []string {
	return slices.DeleteFunc([]string{l.cert, l.key, l.chain, l.roots}, func(name string) bool { return name == "" })
}

// maxPlugged bounds what is read, in bytes: a Secret holds no more.
const maxPlugged = 1 << 20

// PluggedFileNames are all the names that [PluggedFiles] may have.
func PluggedFileNames() []string {
	names := []string{mesh.CRLKey}
	for _, l := range layouts {
		names = append(names, l.files()...)
	}
	return names
}

func (p *PluggedFiles) has(name string) bool { _, ok := p.Files[name]; return ok }

// layout tells which names the files go by. All files of it have to be there: half of
// a CA is being written, or was forgotten.
func (p *PluggedFiles) layout() (layout, error) {
	if len(p.Unread) > 0 {
		return layout{}, errors.New(strings.Join(p.Unread, "; "))
	}
	var used []layout
	size := 0
	for _, l := range layouts {
		if slices.ContainsFunc(l.files(), p.has) {
			used = append(used, l)
		}
		for _, name := range l.files() {
			size += len(p.Files[name])
		}
	}
	switch {
	case size+len(p.Files[mesh.CRLKey]) > maxPlugged:
		return layout{}, errors.New("too large")
	case len(used) == 0:
		return layout{}, fmt.Errorf("holds neither %s nor %s", strings.Join(layouts[0].files(), ", "), strings.Join(layouts[1].files(), ", "))
	case len(used) > 1:
		return layout{}, fmt.Errorf("holds files of two layouts, %s and %s: which of them signs?", used[0].cert, used[1].cert)
	}
	var missing []string
	for _, name := range used[0].files() {
		if !p.has(name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return layout{}, fmt.Errorf("lacks %s", strings.Join(missing, ", "))
	}
	return used[0], nil
}

// issuer reads and checks the files, and has the CA sign a certificate that nobody gets.
func (p *PluggedFiles) issuer(o Options, now time.Time) (*issuer, error) {
	l, err := p.layout()
	if err != nil {
		return nil, err
	}
	path, err := p.path(l)
	if err != nil {
		return nil, err
	}
	key, err := parsePrivateKey(p.Files[l.key])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.key, err)
	}
	roots, err := parseRoots(p.Files[l.roots])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.roots, err)
	}
	i, err := newIssuer(path, key, roots)
	if err != nil {
		return nil, err
	}
	if err := i.checkChain(now); err != nil {
		return nil, err
	}
	if err := i.try(o, now); err != nil {
		return nil, fmt.Errorf("a certificate signed for trial: %w", err)
	}
	if p.has(mesh.CRLKey) {
		if err := i.checkCRL(p.Files[mesh.CRLKey]); err != nil {
			return nil, fmt.Errorf("%s: %w", mesh.CRLKey, err)
		}
	}
	return i, nil
}

// path returns the signing certificate and what follows it. Istio's own scripts begin
// the chain with the signing certificate and end it with the root; others do neither.
func (p *PluggedFiles) path(l layout) ([]*x509.Certificate, error) {
	path, err := parseCertificates(p.Files[l.cert])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.cert, err)
	}
	if l.chain == "" {
		return path, nil
	}
	if len(path) != 1 {
		return nil, fmt.Errorf("%s: %d certificates, want one", l.cert, len(path))
	}
	if len(trimSpace(p.Files[l.chain])) == 0 {
		return path, nil
	}
	chain, err := parseCertificates(p.Files[l.chain])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.chain, err)
	}
	if chain[0].Equal(path[0]) {
		return chain, nil
	}
	return append(path, chain...), nil
}

func parseRoots(text []byte) ([]*x509.Certificate, error) {
	roots, err := parseCertificates(text)
	if err != nil {
		return nil, err
	}
	for n, c := range roots {
		switch err := checkKey(c.PublicKey); {
		case err != nil:
			return nil, fmt.Errorf("certificate %q: key: %w", c.Subject, err)
		case !c.BasicConstraintsValid || !c.IsCA:
			return nil, fmt.Errorf("certificate %q: is not that of a CA", c.Subject)
		case !selfIssued(c):
			return nil, fmt.Errorf("certificate %q: is not self-signed, so many verifiers do not stop at it", c.Subject)
		case slices.ContainsFunc(roots[:n], c.Equal):
			return nil, fmt.Errorf("certificate %q: is there twice", c.Subject)
		}
	}
	return roots, nil
}

// checkChain looks at each certificate for what a verifier would hold against all
// leaves, and says which one it is.
func (i *issuer) checkChain(now time.Time) error {
	if len(i.cert.SubjectKeyId) == 0 {
		return fmt.Errorf("certificate %q: has no subject key identifier, so leaves could not name it (RFC 5280, 4.2.1.1)", i.cert.Subject)
	}
	for n, c := range i.chain {
		switch {
		case now.Before(c.NotBefore):
			return fmt.Errorf("certificate %q: not valid before %s", c.Subject, c.NotBefore.Format(time.RFC3339))
		case !now.Before(c.NotAfter):
			return fmt.Errorf("certificate %q: ended at %s", c.Subject, c.NotAfter.Format(time.RFC3339))
		case c.MaxPathLen >= 0 && c.MaxPathLen < n: // -1 is no limit
			return fmt.Errorf("certificate %q: allows %d CAs below it, has %d", c.Subject, c.MaxPathLen, n)
		}
		above := i.anchors[0]
		if n+1 < len(i.chain) {
			above = i.chain[n+1]
		}
		if len(c.AuthorityKeyId) > 0 && len(above.SubjectKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, above.SubjectKeyId) {
			return fmt.Errorf("certificate %q: its authority key identifier is not that of %q", c.Subject, above.Subject)
		}
	}
	return i.usable(now, minLifetime)
}

// try signs a certificate such as Citadel itself has, over a key that is thrown away,
// and verifies it as its clients will: that finds limits in the chain on names, usages
// and length.
func (i *issuer) try(o Options, now time.Time) error {
	o = o.withDefaults()
	n, err := o.namesOf(mesh.ServiceAccount{Namespace: o.SystemNamespace, Name: mesh.ServerAccount(mesh.CitadelService)})
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := requestFor(key)
	if err != nil {
		return err
	}
	cert, err := i.issue(n, request, now, minLifetime)
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range i.roots {
		roots.AddCert(c)
	}
	for _, c := range i.chain {
		between.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := cert.leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			return err
		}
	}
	return nil
}

// checkCRL demands that the lists cover every certificate of the chain and revoke
// none: a verifier that was given lists refuses what they say nothing about.
func (i *issuer) checkCRL(text []byte) error {
	lists, err := parseCRLs(text)
	if err != nil {
		return err
	}
	used := map[*x509.RevocationList]bool{}
	for n, c := range i.chain {
		above := i.anchors
		if n+1 < len(i.chain) {
			above = i.chain[n+1 : n+2]
		}
		covered := false
		for _, list := range lists {
			if !slices.ContainsFunc(above, func(a *x509.Certificate) bool {
				return bytes.Equal(list.RawIssuer, a.RawSubject) && list.CheckSignatureFrom(a) == nil
			}) {
				continue
			}
			covered, used[list] = true, true
			for _, revoked := range list.RevokedCertificateEntries {
				if revoked.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return fmt.Errorf("certificate %q: is revoked", c.Subject)
				}
			}
		}
		if !covered {
			return fmt.Errorf("certificate %q: no list of its issuer", c.Subject)
		}
	}
	for _, list := range lists {
		if !used[list] && !slices.ContainsFunc(i.roots, func(r *x509.Certificate) bool { return list.CheckSignatureFrom(r) == nil }) &&
			list.CheckSignatureFrom(i.cert) != nil {
			return fmt.Errorf("list of %q: signed by none of these CAs", list.Issuer)
		}
	}
	return nil
}

func parseCRLs(text []byte) ([]*x509.RevocationList, error) {
	var lists []*x509.RevocationList
	blocks := bytes.Count(text, []byte("-----BEGIN "))
	for text = trimSpace(text); len(text) > 0; text = trimSpace(text) {
		if !bytes.HasPrefix(text, []byte("-----BEGIN X509 CRL-----")) {
			return nil, errors.New("holds something else than revocation lists")
		}
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "X509 CRL" || len(block.Headers) > 0 {
			return nil, errors.New("malformed PEM block")
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		lists = append(lists, list)
		text = rest
	}
	if len(lists) == 0 {
		return nil, errors.New("no revocation list")
	}
	if len(lists) != blocks { // as for certificates
		return nil, errors.New("malformed PEM block")
	}
	return lists, nil
}
