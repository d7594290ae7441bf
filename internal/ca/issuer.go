package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cloudflare/cfssl/config"
	cferrors "github.com/cloudflare/cfssl/errors"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

var (
	// errPossession: the CSR was not signed with the key that it carries.
	errPossession = errors.New("csr: signature: does not match the key")
	// errIssuer: nothing can be signed until the issuer is replaced.
	errIssuer = errors.New("signing certificate")
)

// names are all that a certificate says about its holder.
type names struct {
	id  identity.ID
	dns []string // in the order of the certificate; only servers have any

	// origin is the content of the extension by which the certificate may be renewed,
	// or nil for one that never is.
	origin []byte
}

// issuer is a signing certificate with its key, what lies between it and a root, and
// the roots that clients verify by. It never changes.
type issuer struct {
	cert      *x509.Certificate
	key       crypto.Signer
	policy    *config.Signing
	signer    *local.Signer       // reads CSRs
	chain     []*x509.Certificate // from cert up to, but without, the root; empty where cert is one
	roots     []*x509.Certificate
	anchors   []*x509.Certificate // those of the roots that the chain hangs from
	earlier   []*x509.Certificate // of chains before this one
	notBefore time.Time           // from then on all of the chain and a root are valid,
	notAfter  time.Time           // until then
	between   []string            // chain in PEM, each with its newline
	bundle    []byte              // roots in PEM, each with its newline
	origin    origin
}

// issued is a certificate that passed inspection, and what clients verify it by.
type issued struct {
	leaf    *x509.Certificate
	pem     []byte // of the leaf; ends in a newline
	chain   []byte // pem, then the certificates between it and a root, each with its newline
	between []string
	bundle  []byte
	short   bool // ends before it was to
}

// answer is the leaf, each certificate between it and a root, and all the roots as
// the last element, which is where Istio's clients look for them.
func (i *issued) answer() []string {
	return slices.Concat([]string{string(i.pem)}, i.between, []string{string(i.bundle)})
}

// newIssuer makes an issuer of a path that begins with the signing certificate; each
// certificate signed the one before it, and a root signed the last or is the last.
// It refuses a path that does not hold together, a certificate that may not sign, and
// a key that is not the first one's. It does not look at the time.
func newIssuer(path []*x509.Certificate, key crypto.Signer, roots []*x509.Certificate) (*issuer, error) {
	cert := path[0]
	if err := checkKey(cert.PublicKey); err != nil {
		return nil, fmt.Errorf("signing certificate: key: %w", err)
	}
	if !equalKeys(cert.PublicKey, key.Public()) {
		return nil, errors.New("signing key does not match the signing certificate")
	}
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("signing certificate: is not that of a CA")
	}
	rules := policy()
	s, err := local.NewSigner(key, cert, signer.DefaultSigAlgo(key), rules)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	i := &issuer{cert: cert, key: key, policy: rules, signer: s, roots: roots, bundle: encodeCertificates(roots)}
	if err := i.join(path); err != nil {
		return nil, err
	}
	for _, c := range i.chain {
		i.between = append(i.between, string(encodeCertificate(c)))
	}
	return i, nil
}

// issue signs a certificate over the request's key, valid from a little before
// now for ttl, or for as long as the issuer has left. It returns errPossession or
// errIssuer, wrapped, where they apply; any other error is a fault of ours.
func (i *issuer) issue(n names, r Request, now time.Time, ttl time.Duration) (*issued, error) {
	notBefore, notAfter, err := i.lifetime(now, ttl)
	if err != nil {
		return nil, err
	}
	template, err := i.template(n, r)
	if err != nil {
		return nil, err
	}
	if err := signer.FillTemplate(template, i.policy.Default, i.profileOf(r.key), notBefore, notAfter); err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	key := &witness{key: i.key}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, template.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	leaf, err := i.inspect(der, n, r.key)
	if err != nil {
		return nil, fmt.Errorf("signed certificate: %w", err)
	}
	if !key.saw(leaf) {
		return nil, errors.New("signed certificate: is not what was signed")
	}
	if !leaf.NotBefore.Equal(notBefore) || !leaf.NotAfter.Equal(notAfter) {
		return nil, fmt.Errorf("signed certificate: valid %v to %v, not %v to %v", leaf.NotBefore, leaf.NotAfter, notBefore, notAfter)
	}
	text := encodeCertificate(leaf)
	chain := bytes.Clone(text)
	for _, c := range i.between {
		chain = append(chain, c...)
	}
	return &issued{leaf: leaf, pem: text, chain: chain, between: i.between, bundle: i.bundle, short: notAfter.Sub(now) < ttl-time.Second}, nil
}

// template is what a certificate says but for what the profile adds. cfssl reads the
// CSR and has possession of the key proven; of all that it read only the key is taken.
// Its own Sign goes on from there to the same, but guesses of what kind each name is, and
// encodes and parses the result once more for a database that we do not have.
func (i *issuer) template(n names, r Request) (*x509.Certificate, error) {
	profile := i.profileOf(r.key)
	csr, err := signer.ParseCertificateRequest(i.signer, profile, r.der)
	if e, ok := errors.AsType[*cferrors.Error](err); ok && e.ErrorCode == int(cferrors.CSRError)+int(cferrors.KeyMismatch) {
		return nil, errPossession
	}
	if err != nil { // it reads more of a CSR than we do
		return nil, breaks(RuleCSR, fmt.Errorf("csr: %w", err))
	}
	extensions := n.extensions()
	for _, e := range extensions {
		if !profile.ExtensionWhitelist[e.Id.String()] {
			return nil, fmt.Errorf("extension %s: is not in the profile", e.Id)
		}
	}
	uri, err := url.Parse(n.id.String())
	if err != nil {
		return nil, err
	}
	var serial [20]byte // as many as RFC 5280 allows
	rand.Read(serial[:])
	serial[0] &= 0x7f // positive
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]), PublicKey: csr.PublicKey, PublicKeyAlgorithm: csr.PublicKeyAlgorithm,
		URIs: []*url.URL{uri}, DNSNames: n.dns, ExtraExtensions: extensions,
	}, nil
}

// lifetime returns the validity of a certificate that is to live for ttl.
func (i *issuer) lifetime(now time.Time, ttl time.Duration) (notBefore, notAfter time.Time, err error) {
	if err := i.usable(now, ttl); err != nil {
		return time.Time{}, time.Time{}, err
	}
	now = now.UTC().Truncate(time.Second) // as certificates tell time
	notBefore, notAfter = now.Add(-skew), now.Add(ttl)
	if notBefore.Before(i.notBefore) {
		notBefore = i.notBefore
	}
	if notAfter.After(i.notAfter) {
		notAfter = i.notAfter
	}
	return notBefore, notAfter, nil
}

// usable reports why nothing that should live for ttl can be signed now.
func (i *issuer) usable(now time.Time, ttl time.Duration) error {
	if now.Before(i.notBefore) {
		return fmt.Errorf("%w: not valid before %s", errIssuer, i.notBefore.Format(time.RFC3339))
	}
	if i.notAfter.Sub(now) < min(ttl, minLifetime) {
		return fmt.Errorf("%w: expires at %s", errIssuer, i.notAfter.Format(time.RFC3339))
	}
	return nil
}

// inspect parses what the signer made and compares everything but dates and
// signature with what was wanted, so that one mistake must be made twice to get out.
func (i *issuer) inspect(der []byte, n names, key crypto.PublicKey) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if !equalKeys(leaf.PublicKey, key) {
		return nil, errors.New("another key than requested")
	}
	if err := checkProfile(leaf); err != nil {
		return nil, err
	}
	if err := n.check(leaf); err != nil {
		return nil, err
	}
	if leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() < 64 {
		return nil, errors.New("serial number has less than 64 bits")
	}
	if !bytes.Equal(leaf.RawIssuer, i.cert.RawSubject) || !bytes.Equal(leaf.AuthorityKeyId, i.cert.SubjectKeyId) {
		return nil, errors.New("names another issuer")
	}
	return leaf, nil
}

// extensions are what goes into a certificate besides the profile's.
func (n names) extensions() []pkix.Extension {
	if n.origin == nil {
		return nil
	}
	return []pkix.Extension{{Id: originOID(), Value: n.origin}}
}

// check compares the names in a certificate with n: the same, in the same order,
// and no others of any kind; and its origin, byte for byte.
func (n names) check(leaf *x509.Certificate) error {
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != n.id.String() {
		return fmt.Errorf("URIs %v, want only %s", leaf.URIs, n.id)
	}
	if !slices.Equal(leaf.DNSNames, n.dns) {
		return fmt.Errorf("DNS names %q, want %q", leaf.DNSNames, n.dns)
	}
	if len(leaf.IPAddresses) > 0 || len(leaf.EmailAddresses) > 0 {
		return errors.New("holds addresses")
	}
	if !bytes.Equal(leaf.RawSubject, []byte{0x30, 0}) {
		return fmt.Errorf("subject %q, want none", leaf.Subject)
	}
	if !bytes.Equal(originIn(leaf), n.origin) {
		return errors.New("another origin than it was to have")
	}
	return nil
}

// checkProfile compares all that leaves have in common.
func checkProfile(leaf *x509.Certificate) error {
	if leaf.Version != 3 {
		return fmt.Errorf("version %d, want 3", leaf.Version)
	}
	if !leaf.BasicConstraintsValid || leaf.IsCA {
		return errors.New("is not marked as a leaf")
	}
	if want := usageOf(leaf.PublicKey); leaf.KeyUsage != want {
		return fmt.Errorf("key usage %b, want %b", leaf.KeyUsage, want)
	}
	want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if !slices.Equal(leaf.ExtKeyUsage, want) || len(leaf.UnknownExtKeyUsage) > 0 {
		return fmt.Errorf("extended key usage %v %v, want %v", leaf.ExtKeyUsage, leaf.UnknownExtKeyUsage, want)
	}
	for _, e := range leaf.Extensions {
		critical, known := leafExtensions(e.Id.String())
		if !known {
			return fmt.Errorf("unexpected extension %s", e.Id)
		}
		if e.Critical != critical {
			return fmt.Errorf("extension %s: critical is %t", e.Id, e.Critical)
		}
	}
	return nil
}

// leafExtensions tells which extensions a leaf may have, and whether each is
// critical (RFC 5280; the names are, because the subject is empty).
func leafExtensions(oid string) (critical, known bool) {
	switch oid {
	case "2.5.29.15", "2.5.29.17", "2.5.29.19": // key usage, names, basic constraints
		return true, true
	case "2.5.29.14", "2.5.29.35", "2.5.29.37", mesh.OriginOID: // key identifiers, extended key usage
		return false, true
	}
	return false, false
}

// usageOf returns the key usage of a leaf. Encipherment is for RSA key exchange
// alone; RFC 8813 forbids it with elliptic curves, though Istio sets it there too.
func usageOf(key crypto.PublicKey) x509.KeyUsage {
	if _, ok := key.(*rsa.PublicKey); ok {
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

const rsaProfile = "rsa"

func (i *issuer) profileOf(key crypto.PublicKey) *config.SigningProfile {
	if _, ok := key.(*rsa.PublicKey); ok {
		return i.policy.Profiles[rsaProfile]
	}
	return i.policy.Default
}

// policy is what cfssl fills in: what certificates are for. The whitelist is not read by what
// we call of cfssl; template holds extensions to it: none of anybody's but our own. The
// expiry is demanded but never used, as every certificate brings its dates.
func policy() *config.Signing {
	profile := func(usages string) *config.SigningProfile {
		return &config.SigningProfile{
			Usage:              strings.Split(usages, ","),
			Expiry:             DefaultTTL,
			ExtensionWhitelist: map[string]bool{mesh.OriginOID: true},
		}
	}
	return &config.Signing{
		Default:  profile("digital signature,server auth,client auth"),
		Profiles: map[string]*config.SigningProfile{rsaProfile: profile("digital signature,key encipherment,server auth,client auth")},
	}
}
