package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// NewSecret makes a key and a certificate for an account, as the Secret that its
// pods mount and that goes when the account goes. Each call makes another key.
func (a *Authority) NewSecret(account mesh.ServiceAccount, now time.Time) (*corev1.Secret, error) {
	n, err := a.options.namesOf(account)
	if err != nil {
		return nil, err
	}
	key, keyText, err := a.options.SecretKey.generate()
	if err != nil {
		return nil, breaks(RuleCSR, fmt.Errorf("key: %w", err))
	}
	request, err := requestFor(key)
	if err != nil {
		return nil, breaks(RuleCSR, err)
	}
	cert, err := a.certify(order{
		names: n, request: request, ttl: a.options.SecretTTL, claim: claim{id: n.id, proven: now, secret: true},
		entry: ledger.Entry{How: string(proofSecret), Policy: policyName("secret", n.id.String(), n.dns, a.options.SecretTTL)},
	}, now)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: account.Namespace,
			Name:      mesh.WorkloadSecret(account.Name),
			Labels:    map[string]string{mesh.ManagedByLabel: mesh.ManagedBy},
			Annotations: map[string]string{
				mesh.ServiceAccountAnnotation: account.Name,
				mesh.SecretAccount:            account.UID,
				mesh.SecretExpiry:             cert.leaf.NotAfter.UTC().Format(time.RFC3339),
				mesh.SecretDigest:             digest(cert.leaf.Raw),
				mesh.SecretRoots:              digest(cert.bundle),
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1",
				Kind:       "ServiceAccount",
				Name:       account.Name,
				UID:        types.UID(account.UID),
			}},
		},
		Type: mesh.WorkloadSecretType,
		Data: map[string][]byte{
			mesh.CertChain: cert.chain,
			mesh.CertKey:   keyText,
			mesh.CertRoot:  cert.bundle,
		},
	}, nil
}

// CheckSecret tells from when on an account's Secret should be renewed, which may
// be in the past, or why it is of no use: it is not what [Authority.NewSecret]
// would make for this account, or not valid now. Nothing in the Secret is believed
// but what the signature of the authority vouches for.
func (a *Authority) CheckSecret(account mesh.ServiceAccount, secret *corev1.Secret, now time.Time) (renew time.Time, err error) {
	n, err := a.options.namesOf(account)
	if err != nil {
		return time.Time{}, err
	}
	if err := checkOwner(account, secret); err != nil {
		return time.Time{}, err
	}
	current := a.current.Load()
	if !bytes.Equal(secret.Data[mesh.CertRoot], current.bundle) {
		return time.Time{}, fmt.Errorf("%s: not the roots in use", mesh.CertRoot)
	}
	pair, err := tls.X509KeyPair(secret.Data[mesh.CertChain], secret.Data[mesh.CertKey])
	if err != nil {
		// The error may quote the key's PEM type, never the key.
		return time.Time{}, fmt.Errorf("%s, %s: %w", mesh.CertChain, mesh.CertKey, err)
	}
	certs, err := parseCertificates(secret.Data[mesh.CertChain])
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", mesh.CertChain, err)
	}
	if err := current.vouches(certs, n, now); err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", mesh.CertChain, err)
	}
	if !bytes.Equal(secret.Data[mesh.CertChain], encodeCertificates(certs)) {
		return time.Time{}, fmt.Errorf("%s: holds more than its certificates", mesh.CertChain)
	}
	// Where revocations are not read yet, nothing new is made, but nothing is spoilt either.
	err = a.options.Revocations.check(claim{id: n.id, proven: madeAt(pair.Leaf), serial: pair.Leaf.SerialNumber, secret: true}, now)
	if errors.Is(err, errRevoked) {
		return time.Time{}, err
	}
	return a.options.renewal(pair.Leaf, account), nil
}

// CheckServing tells why a server must not serve the certificate that a Secret has for
// its account. It asks for less than [Authority.CheckSecret]: a leader that signs with
// another CA, or has other roots beside those in use, may have made it and find it good, and
// without one this process would never take its place.
func (a *Authority) CheckServing(account mesh.ServiceAccount, secret *corev1.Secret, now time.Time) error {
	n, err := a.options.namesOf(account)
	if err != nil {
		return err
	}
	certs, err := parseCertificates(secret.Data[mesh.CertChain])
	if err == nil {
		_, err = a.current.Load().verify(certs, n, now, x509.ExtKeyUsageServerAuth)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", mesh.CertChain, err)
	}
	return nil
}

// vouches verifies a leaf that comes back from storage, with what follows it there, by
// the roots in use, and compares it with what the issuer would have made for n. What
// lies between the leaf and a root has to be of the issuer's own chain or one before: a root
// may have signed for others, too.
func (i *issuer) vouches(certs []*x509.Certificate, n names, now time.Time) error {
	for _, c := range certs[1:] {
		if !slices.ContainsFunc(i.chain, c.Equal) && !slices.ContainsFunc(i.earlier, c.Equal) {
			return fmt.Errorf("certificate %q: is not between the signing certificate and a root", c.Subject)
		}
	}
	chains, err := i.verify(certs, n, now, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if slices.EqualFunc(chain[:len(chain)-1], certs, (*x509.Certificate).Equal) {
			return nil
		}
	}
	return errors.New("holds more than the chain of its certificate")
}

// verify verifies a leaf with what follows it by the roots in use, and compares it with
// what the issuer would have made for n.
func (i *issuer) verify(certs []*x509.Certificate, n names, now time.Time, usage x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
	leaf := certs[0]
	if err := checkKey(leaf.PublicKey); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if err := checkProfile(leaf); err != nil {
		return nil, err
	}
	if err := n.check(leaf); err != nil {
		return nil, err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range i.roots {
		roots.AddCert(root)
	}
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	return leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
}

// checkOwner finds Secrets of an earlier account of the same name, which the
// garbage collector is about to delete, and those that it would never delete.
func checkOwner(account mesh.ServiceAccount, secret *corev1.Secret) error {
	for _, owner := range secret.OwnerReferences {
		if owner.Kind == "ServiceAccount" && owner.Name == account.Name && owner.UID == types.UID(account.UID) {
			return nil
		}
	}
	return errors.New("not owned by the service account")
}

// renewal returns when what is left of a certificate's life is the grace period, give or
// take a tenth of it: always the same for one account, but spread over accounts whose
// certificates were made together.
func (o Options) renewal(leaf *x509.Certificate, account mesh.ServiceAccount) time.Time {
	h := sha256.Sum256([]byte(account.UID))
	spread := float64(binary.BigEndian.Uint32(h[:]))/(1<<31) - 1 // -1 to 1
	return leaf.NotAfter.Add(-time.Duration(o.grace(leaf) * (1 + spread/10)))
}

// grace returns the grace period of a certificate, in nanoseconds. Life begins when the
// certificate was made, which for brief ones is long after NotBefore. The least grace
// period takes no more than half of it.
func (o Options) grace(leaf *x509.Certificate) float64 {
	life := leaf.NotAfter.Sub(madeAt(leaf)) // of 200 years and more, the longest Duration
	return max(o.SecretGrace*float64(life), float64(min(o.SecretMinGrace, life/2)))
}

// SecretOverdue returns from when on a certificate out of a Secret should have been renewed
// long ago: when half of its grace period is over, and at most 30 days are left.
func (a *Authority) SecretOverdue(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-min(firstWarning, time.Duration(a.options.grace(leaf)/2)))
}

// digest is how annotations and the record name what they do not hold.
func digest(content []byte) string {
	h := sha256.Sum256(content)
	return hex.EncodeToString(h[:])
}

// Basis is what [Authority.CheckSecret] judges an account's Secret by besides its
// settings, in digests.
type Basis struct {
	Roots   string // as the annotation of Secrets has it
	Chain   string // of the certificates between them and leaves
	Revoked string // of the revocations that may concern what is in the Secret; empty: none
	Barred  bool   // the account is revoked for good: no Secret of it is, or can be made
}

// Basis returns what an account's Secret is judged by today.
func (a *Authority) Basis(account mesh.ServiceAccount) Basis {
	i := a.current.Load()
	b := Basis{Roots: digest(i.bundle), Chain: digest(encodeCertificates(i.chain))}
	b.Revoked, b.Barred = a.options.Revocations.basis(account, time.Now())
	return b
}

// madeAt tells when a certificate was made, which is after it began.
func madeAt(leaf *x509.Certificate) time.Time { return leaf.NotBefore.Add(skew) }

// namesOf returns what an account's Secret certifies. Only the accounts of the
// servers have DNS names, for the clients that dial them.
func (o Options) namesOf(account mesh.ServiceAccount) (names, error) {
	id, err := identity.New(o.TrustDomain, account.Namespace, account.Name)
	if err != nil {
		return names{}, err
	}
	n := names{id: id, dns: o.DNSNames.of(account)}
	if account.Namespace != o.SystemNamespace {
		return n, nil
	}
	service, ok := strings.CutSuffix(account.Name, mesh.ServerAccount(""))
	switch {
	case !ok || len(validation.IsDNS1123Label(service)) > 0:
	case service == mesh.InjectorService, strings.HasPrefix(service, mesh.InjectorService+"-"): // of a revision
		n.dns = append(o.serviceNames(service), n.dns...)
	case service == mesh.CitadelService:
		n.dns = slices.Concat(o.serviceNames(service), []string{
			// Clients of Istio's verify their CA by one of these, by version.
			"istio-ca",
			"istiod." + o.SystemNamespace + ".svc",
			"istiod-remote." + o.SystemNamespace + ".svc",
			"istio-pilot." + o.SystemNamespace + ".svc",
		}, n.dns)
	}
	return n, nil
}

// serviceNames returns the DNS names of a Service in the system namespace,
// shortest first.
func (o Options) serviceNames(service string) []string {
	inNamespace := service + "." + o.SystemNamespace
	return []string{service, inNamespace, inNamespace + ".svc", inNamespace + ".svc." + o.ClusterDomain}
}

// requestFor makes the request that a holder of key would send.
func requestFor(key crypto.Signer) (Request, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return Request{}, fmt.Errorf("csr: %w", err)
	}
	return ParseRequest(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
}
