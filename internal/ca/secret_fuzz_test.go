package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// FuzzCheckSecret holds the law of what the keeper of Secrets lives by: whatever somebody
// writes into the Secret of an account, only what this authority would have made for that
// account is good. Certificates and key are PEM, or DER where der says so, so that what
// is inside gets its share of the changes.
func FuzzCheckSecret(f *testing.F) {
	now := noon
	a, path := fixed(f, 1)
	stranger, _ := fixed(f, 101)
	httpbin := mesh.ServiceAccount{Namespace: "default", Name: "httpbin", UID: "h"}
	server := mesh.ServiceAccount{Namespace: mesh.SystemNamespace, Name: mesh.ServerAccount(mesh.CitadelService), UID: "c"}
	accounts := []mesh.ServiceAccount{sleep, httpbin, server}
	add := func(s *corev1.Secret, index uint8) {
		chain, key, root := s.Data[mesh.CertChain], s.Data[mesh.CertKey], s.Data[mesh.CertRoot]
		f.Add(chain, key, root, index, int64(0), false)
		certs, err := parseCertificates(chain)
		if err != nil {
			f.Fatal(err)
		}
		block, err := onlyBlock(key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(certs[0].Raw, block.Bytes, root, index, int64(time.Hour), true)
	}
	secrets, leaves := map[mesh.ServiceAccount]*corev1.Secret{}, map[mesh.ServiceAccount]*x509.Certificate{}
	for i, account := range accounts {
		secrets[account] = newSecret(f, a, account, now)
		certs, err := parseCertificates(secrets[account].Data[mesh.CertChain])
		if err != nil {
			f.Fatal(err)
		}
		leaves[account] = certs[0]
		if _, err := a.CheckSecret(account, secrets[account], now); err != nil {
			f.Fatal(err)
		}
		for j := range accounts {
			add(secrets[account], uint8(j))
		}
		add(newSecret(f, stranger, account, now), uint8(i))
	}
	own, other := secrets[sleep].Data, secrets[httpbin].Data
	f.Add(own[mesh.CertChain], other[mesh.CertKey], own[mesh.CertRoot], uint8(0), int64(0), false)
	f.Add(slices.Concat(own[mesh.CertChain], other[mesh.CertChain]), own[mesh.CertKey], own[mesh.CertRoot], uint8(0), int64(0), false)
	f.Add(own[mesh.CertChain], own[mesh.CertKey], slices.Concat(own[mesh.CertRoot], other[mesh.CertRoot]), uint8(0), int64(0), false)
	f.Add(own[mesh.CertChain], slices.Concat(own[mesh.CertKey], other[mesh.CertKey]), own[mesh.CertRoot], uint8(0), int64(DefaultSecretTTL), false)
	// Signed by a, but not for a Secret.
	origin := encoded(f, leafOrigin{byToken, sleep.UID, "p1", now})
	for _, n := range []names{{id: mustID(f, sleepID), origin: origin}, {id: mustID(f, sleepID), dns: []string{"istio-citadel"}}} {
		h := signLeaf(f, a, n, now)
		key, err := encodePrivateKey(h.key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encodeCertificates(h.chain), key, own[mesh.CertRoot], uint8(0), int64(0), false)
	}

	f.Fuzz(func(t *testing.T, chain, key, root []byte, index uint8, age int64, der bool) {
		account := accounts[int(index)%len(accounts)]
		at := now.Add(time.Duration(age % int64(2*DefaultSecretTTL)))
		if der {
			chain = append([]byte(inPEM("CERTIFICATE", chain)), encodeCertificates(path[:2])...)
			key = []byte(inPEM("PRIVATE KEY", key))
		}
		secret := &corev1.Secret{
			ObjectMeta: secrets[account].ObjectMeta, Type: mesh.WorkloadSecretType,
			Data: map[string][]byte{mesh.CertChain: chain, mesh.CertKey: key, mesh.CertRoot: root},
		}
		renew, err := a.CheckSecret(account, secret, at)
		if err != nil {
			return
		}
		certs, err := parseCertificates(chain)
		if err != nil {
			t.Fatal(err)
		}
		leaf, good := certs[0], leaves[account]
		if !bytes.Equal(root, a.Bundle()) || len(certs) != len(path) || leaf.CheckSignatureFrom(path[0]) != nil {
			t.Error("not of this authority")
		}
		expectLeaf(t, leaf, string(root), good.URIs[0].String(), good.DNSNames, at, certs[1:]...)
		if !renew.Before(leaf.NotAfter) || renew.Before(leaf.NotBefore) {
			t.Errorf("valid %v to %v, to be renewed %v", leaf.NotBefore, leaf.NotAfter, renew)
		}
		pair, err := tls.X509KeyPair(encodeCertificate(leaf), key)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(root)
		signature, err := pair.PrivateKey.(crypto.Signer).Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(leaf.PublicKey.(*ecdsa.PublicKey), sum[:], signature) {
			t.Errorf("the key is not the certificate's: %v", err)
		}
	})
}

// fixed returns an authority two certificates below a root, the same in every process: the
// seeds come from another one than tries them.
func fixed(t testing.TB, seed byte) (*Authority, []*x509.Certificate) {
	t.Helper()
	var path []*x509.Certificate
	var signer *ecdsa.PrivateKey
	for i := range byte(3) {
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{seed + i}, 32))
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(seed + i)), Subject: pkix.Name{CommonName: strconv.Itoa(int(i))}, SubjectKeyId: []byte{seed + i},
			NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(365 * 24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		parent := template
		if i == 0 {
			signer = key
		} else {
			parent = path[0]
		}
		der, err := x509.CreateCertificate(nil, template, parent, key.Public(), signer) // no randomness: the same signature each time
		if err != nil {
			t.Fatal(err)
		}
		path, signer = append([]*x509.Certificate{parseLeaf(t, inPEM("CERTIFICATE", der))}, path...), key
	}
	return authorityOf(t, path, signer, path[2:]), path
}

// The fuzz engine's processes would otherwise have nothing in common.
func TestFixedAuthority(t *testing.T) {
	_, one := fixed(t, 1)
	_, again := fixed(t, 1)
	if !slices.EqualFunc(one, again, (*x509.Certificate).Equal) {
		t.Error("another authority the second time")
	}
}
