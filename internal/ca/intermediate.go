package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// IntermediateOptions are the settings of a certificate below the root. Zero values
// mean defaults.
type IntermediateOptions struct {
	TrustDomain identity.TrustDomain // cluster.local
	TTL         time.Duration        // [DefaultIntermediateTTL], or as long as the root lives
	Key         KeyKind

	// Constrain lets it sign for no URIs but the trust domain's, for verifiers that
	// know such a constraint; some refuse every certificate below one that has it.
	Constrain bool
}

// maxEarlier is how many certificates that signed before are remembered.
const maxEarlier = 4

// DesiredIntermediate returns the Secret garrison-ca-intermediate as it should be,
// or nil where found, which may be nil, is good: it fits the root and has more than a
// third of its life left. Whoever trusts the root trusts the old and the new one.
//
// With the root key offline there is no other to be had: one that fits stays until it
// ends, and it is an error if found does not.
func DesiredIntermediate(rootSecret, found *corev1.Secret, o IntermediateOptions, now time.Time) (*corev1.Secret, error) {
	r, err := readRoot(rootSecret)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", rootSecret.Namespace, rootSecret.Name, err)
	}
	next := found.DeepCopy()
	var last *issuer
	var why error
	if found == nil {
		why = errors.New("is not there")
		next = intermediateSecret(rootSecret.Namespace)
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, mesh.CASourceAnnotation, mesh.CASelfSigned)
	} else if found.Type != mesh.IntermediateSecretType {
		return nil, fmt.Errorf("is of type %q, so somebody else's; want %q", found.Type, mesh.IntermediateSecretType)
	} else {
		last, why = r.below(found)
	}
	if last == nil || now.After(renewalOf(last.cert)) {
		switch {
		case r.key != nil:
			if err := r.renew(next, last, o, now); err != nil {
				return nil, err
			}
		case last == nil:
			return nil, fmt.Errorf("%w; another can be made only with the root key: put %s back into secret %s",
				why, mesh.CAKeyKey, rootSecret.Name)
		}
	}
	next.Data[mesh.RootKey] = encodeCertificates(r.roots)
	if found != nil && maps.EqualFunc(found.Data, next.Data, bytes.Equal) {
		return nil, nil
	}
	return next, nil
}

// renew puts another intermediate into the Secret, and the one that signed until now
// among the earlier ones; unless it would live no longer.
func (r *root) renew(secret *corev1.Secret, last *issuer, o IntermediateOptions, now time.Time) error {
	if o.TrustDomain.IsZero() {
		o.TrustDomain = identity.DefaultTrustDomain
	}
	if o.TTL == 0 {
		o.TTL = DefaultIntermediateTTL
	}
	above, err := r.issuer()
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	notBefore, notAfter, err := above.lifetime(now, o.TTL)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if last != nil && !notAfter.After(last.notAfter) {
		return nil
	}
	key, err := o.Key.generate()
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	template, err := caTemplate(o.TrustDomain, key.Public())
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	template.Subject.CommonName = "intermediate"
	template.NotBefore, template.NotAfter = notBefore, notAfter
	template.MaxPathLenZero = true // it signs leaves, no CAs
	if o.Constrain {
		if err := constrain(template, o.TrustDomain); err != nil {
			return err
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, key.Public(), r.key)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	next, err := newIssuer([]*x509.Certificate{cert, r.cert}, key, r.roots)
	if err != nil {
		return err
	}
	if err := next.try(Options{TrustDomain: o.TrustDomain, SystemNamespace: secret.Namespace}, now); err != nil {
		return fmt.Errorf("root %q does not let it sign: %w", r.cert.Subject, err)
	}
	keyText, err := encodePrivateKey(key)
	if err != nil {
		return err
	}
	secret.Data = map[string][]byte{
		mesh.CACertKey:       encodeCertificate(cert),
		mesh.CAKeyKey:        keyText,
		mesh.EarlierCertsKey: encodeCertificates(last.chainsUntil(now)),
	}
	return nil
}

// constrain permits URIs of the trust domain and no others. It says nothing of other
// kinds of names.
func constrain(template *x509.Certificate, domain identity.TrustDomain) error {
	if _, err := netip.ParseAddr(domain.String()); err == nil || len(validation.IsDNS1123Subdomain(domain.String())) > 0 {
		return fmt.Errorf("trust domain %s: is no DNS name, so URIs cannot be constrained to it", domain)
	}
	template.PermittedURIDomains = []string{domain.String()}
	template.PermittedDNSDomainsCritical = true // of all name constraints
	return nil
}

// chainsUntil returns what signed until now and still vouches for leaves, newest first.
func (i *issuer) chainsUntil(now time.Time) []*x509.Certificate {
	if i == nil {
		return nil
	}
	certs := slices.DeleteFunc(slices.Concat(i.chain, i.earlier), func(c *x509.Certificate) bool { return !c.NotAfter.After(now) })
	return certs[:min(len(certs), maxEarlier)]
}

// below reads the Secret of the intermediate, which has to hang from the root.
func (r *root) below(secret *corev1.Secret) (*issuer, error) {
	certs, err := parseCertificates(secret.Data[mesh.CACertKey])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mesh.CACertKey, err)
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%s: %d certificates, want one", mesh.CACertKey, len(certs))
	}
	key, err := parsePrivateKey(secret.Data[mesh.CAKeyKey])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mesh.CAKeyKey, err)
	}
	i, err := newIssuer([]*x509.Certificate{certs[0], r.cert}, key, r.roots)
	if err != nil {
		return nil, err
	}
	if text := trimSpace(secret.Data[mesh.EarlierCertsKey]); len(text) > 0 {
		earlier, err := parseCertificates(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", mesh.EarlierCertsKey, err)
		}
		for _, c := range earlier { // those of a root before this one vouch for nothing
			if signedBy(c, r.cert) == nil {
				i.earlier = append(i.earlier, c)
			}
		}
	}
	return i, nil
}

// renewalOf returns when an intermediate is due: with a third of its life left, which
// by default is more than what any leaf is given.
func renewalOf(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// remembered returns which kind of CA signed last, as the Secret of the intermediate
// has it; one without the annotation was made by hand.
func remembered(secret *corev1.Secret) string {
	if source, ok := secret.Annotations[mesh.CASourceAnnotation]; ok {
		return source
	}
	return mesh.CASelfSigned
}

// Remember returns the Secret garrison-ca-intermediate with a note of which kind of CA
// signs now, or nil where found, which may be nil, has it. What it holds besides stays,
// for the way back. A self-signed CA needs no note where nothing was noted before.
func (a *Authority) Remember(found *corev1.Secret) *corev1.Secret {
	source := a.Status().Source
	if found == nil && source == mesh.CASelfSigned || found != nil && remembered(found) == source {
		return nil
	}
	next := found.DeepCopy()
	if next == nil {
		next = intermediateSecret(a.options.SystemNamespace)
		next.Data = map[string][]byte{mesh.RootKey: a.Bundle()}
	}
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, mesh.CASourceAnnotation, source)
	return next
}

func intermediateSecret(namespace string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      mesh.IntermediateSecret,
			Labels:    map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
		},
		Type: mesh.IntermediateSecretType,
	}
}
