package ca

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// corporate is a root that somebody else has, valid around noon.
func corporate(t testing.TB, name string) authorityCert {
	t.Helper()
	key := ecdsaKey(t, elliptic.P384())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(DefaultRootTTL),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return authorityCert{parseLeaf(t, inPEM("CERTIFICATE", der)), key}
}

// selfSigned is ca with another certificate over its key, by itself.
func (ca authorityCert) selfSigned(t testing.TB) authorityCert {
	t.Helper()
	template := *ca.cert
	template.PublicKey = nil
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return authorityCert{parseLeaf(t, inPEM("CERTIFICATE", der)), ca.key}
}

// resigned is ca with another certificate over its key, by parent.
func (ca authorityCert) resigned(t testing.TB, parent authorityCert, change func(*x509.Certificate)) authorityCert {
	t.Helper()
	template := *ca.cert
	change(&template)
	der, err := x509.CreateCertificate(rand.Reader, &template, parent.cert, ca.key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	return authorityCert{parseLeaf(t, inPEM("CERTIFICATE", der)), ca.key}
}

func keyText(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	text, err := encodePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// files are a plugged-in CA in Istio's layout: the signer, what is between, the roots.
func files(t testing.TB, signer authorityCert, between, roots []*x509.Certificate) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"ca-cert.pem":    encodeCertificate(signer.cert),
		"ca-key.pem":     keyText(t, signer.key),
		"cert-chain.pem": encodeCertificates(between),
		"root-cert.pem":  encodeCertificates(roots),
	}
}

func plug(files map[string][]byte) Material {
	return Material{Plugged: &PluggedFiles{From: "secret istio-system/cacerts", Files: files}, DomainChosen: true}
}

func list(t testing.TB, by authorityCert, revoked ...*x509.Certificate) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: noon, NextUpdate: noon.Add(24 * time.Hour)}
	for _, c := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: noon})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, by.cert, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(inPEM("X509 CRL", der))
}

func certs(cas ...authorityCert) (out []*x509.Certificate) {
	for _, ca := range cas {
		out = append(out, ca.cert)
	}
	return out
}

// All ways in which people and programs write a good CA down come to the same.
func TestPluggedAccepts(t *testing.T) {
	root, other := corporate(t, "root"), corporate(t, "other")
	withCRLSign := func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign }
	middle := root.below(t, "middle", withCRLSign)
	last := middle.below(t, "last", func(c *x509.Certificate) { withCRLSign(c); c.MaxPathLenZero = true })
	lastRSA := authorityCert{key: rsa2048()}
	lastRSA.cert = last.cert
	lastRSA = authorityCert{last.cert, rsa2048()}.resigned(t, middle, func(c *x509.Certificate) { c.SubjectKeyId = []byte("rsa") })
	plain := files(t, last, certs(middle), certs(root))
	with := func(name string, text []byte) map[string][]byte {
		m := maps.Clone(plain)
		m[name] = text
		return m
	}
	narrow := middle.resigned(t, root, func(c *x509.Certificate) { c.MaxPathLen = 1 })
	for name, c := range map[string]struct {
		files  map[string][]byte
		length int // of what follows the leaf
	}{
		"plain": {plain, 2},
		"RSA signer, PKCS#1 key": {func() map[string][]byte {
			m := files(t, lastRSA, certs(middle), certs(root))
			m["ca-key.pem"] = []byte(inPEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048())))
			return m
		}(), 2},
		"chain begins with the signer":   {with("cert-chain.pem", encodeCertificates(certs(last, middle))), 2},
		"chain ends with the root":       {with("cert-chain.pem", encodeCertificates(certs(middle, root))), 2},
		"as Istio's scripts":             {with("cert-chain.pem", encodeCertificates(certs(last, middle, root))), 2},
		"white space":                    {with("cert-chain.pem", append([]byte("\r\n"), append(encodeCertificates(certs(middle)), "\n \n"...)...)), 2},
		"two roots":                      {with("root-cert.pem", encodeCertificates(certs(other, root))), 2},
		"below the root itself":          {files(t, middle, nil, certs(root)), 1},
		"the root itself":                {files(t, root, nil, certs(root)), 0},
		"made by istiod":                 {with("istio-generated", []byte{}), 2},
		"with lists":                     {with("ca-crl.pem", append(list(t, root), list(t, middle)...)), 2},
		"with a list of others":          {with("ca-crl.pem", append(list(t, root), list(t, middle, root.cert)...)), 2},
		"with a list of its own besides": {with("ca-crl.pem", append(append(list(t, root), list(t, middle)...), list(t, last)...)), 2},
		"one CA may be below":            {files(t, narrow.below(t, "last", nil), certs(narrow), certs(root)), 2},
		"type kubernetes.io/tls": {map[string][]byte{
			"tls.crt": encodeCertificates(certs(last, middle)), "tls.key": plain["ca-key.pem"], "ca.crt": plain["root-cert.pem"],
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := Start(plug(c.files), Options{}, noon)
			if err != nil {
				t.Fatal(err)
			}
			s := newSecret(t, a, sleep, noon)
			expectChainIn(t, s, encodeCertificates(certs(root)), noon)
			expectOpenSSL(t, s, noon)
			if n := bytes.Count(s.Data[mesh.CertChain], []byte("BEGIN")); n != 1+c.length {
				t.Errorf("%d certificates, want the leaf and %d", n, c.length)
			}
			if st := a.Status(); st.Source != "plugged" || st.RootKey != RootKeyElsewhere || st.From != "secret istio-system/cacerts" {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// Identifiers of keys need not be there above the signer. Where one is not, there is
// nothing to compare the other with.
func TestPluggedAcceptsWithoutKeyIdentifiers(t *testing.T) {
	root, bare := corporate(t, "root"), bareRoot(t)
	middle := root.below(t, "middle", nil)
	unnamed := *middle.cert
	unnamed.SubjectKeyId = nil
	naming := bare.below(t, "naming", func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 35}, Value: []byte{0x30, 3, 0x80, 1, 9}}}
	})
	for name, files := range map[string]map[string][]byte{
		"neither":           files(t, bare.below(t, "last", nil), nil, certs(bare)),
		"only the issuer's": files(t, authorityCert{&unnamed, middle.key}.below(t, "last", nil), certs(middle), certs(root)),
		"only its naming":   files(t, naming, nil, certs(bare)),
	} {
		a, err := Start(plug(files), Options{}, noon)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		expectChainIn(t, newSecret(t, a, sleep, noon), a.Bundle(), noon)
	}
}

func TestPluggedRefuses(t *testing.T) {
	root, other := corporate(t, "root"), corporate(t, "other")
	middle := root.below(t, "middle", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign })
	last := middle.below(t, "last", nil)
	plain := files(t, last, certs(middle), certs(root))
	with := func(name string, text []byte) map[string][]byte {
		m := maps.Clone(plain)
		m[name] = text
		return m
	}
	without := func(names ...string) map[string][]byte {
		m := maps.Clone(plain)
		for _, name := range names {
			delete(m, name)
		}
		return m
	}
	below := func(change func(*x509.Certificate)) map[string][]byte {
		return files(t, middle.below(t, "last", change), certs(middle), certs(root))
	}
	between := func(change func(*x509.Certificate)) map[string][]byte {
		m := middle.resigned(t, root, change)
		return files(t, m.below(t, "last", nil), certs(m), certs(root))
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := authorityCert{last.cert, small}.resigned(t, middle, func(*x509.Certificate) {})
	odd := authorityCert{last.cert, ecdsaKey(t, elliptic.P521())}.resigned(t, middle, func(*x509.Certificate) {})
	notSelfSigned := files(t, last, nil, certs(middle))
	renamed := middle.resigned(t, root, func(c *x509.Certificate) { c.Subject.CommonName, c.RawSubject = "renamed", nil })
	hour := time.Hour

	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"nothing":                   {map[string][]byte{}, "holds neither ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem nor tls.crt"},
		"half written":              {without("ca-key.pem", "root-cert.pem"), "lacks ca-key.pem, root-cert.pem"},
		"no chain file":             {without("cert-chain.pem"), "lacks cert-chain.pem"},
		"both layouts":              {with("tls.crt", plain["ca-cert.pem"]), "two layouts"},
		"half of the other layout":  {map[string][]byte{"tls.crt": plain["ca-cert.pem"], "tls.key": plain["ca-key.pem"]}, "lacks ca.crt"},
		"key of another":            {with("ca-key.pem", keyText(t, middle.key)), "signing key does not match"},
		"no key":                    {with("ca-key.pem", nil), "ca-key.pem: no PEM block"},
		"key is garbage":            {with("ca-key.pem", []byte("secret")), "ca-key.pem: no PEM block"},
		"certificate for key":       {with("ca-key.pem", plain["ca-cert.pem"]), "is no private key"},
		"certificate is garbage":    {with("ca-cert.pem", []byte("hello")), "ca-cert.pem: holds something else"},
		"text around it":            {with("root-cert.pem", append([]byte("Certificate:\n  Data:\n"), plain["root-cert.pem"]...)), "root-cert.pem: holds something else"},
		"garbage behind it":         {with("cert-chain.pem", append(bytes.Clone(plain["cert-chain.pem"]), "x"...)), "cert-chain.pem: holds something else"},
		"two signers":               {with("ca-cert.pem", encodeCertificates(certs(last, middle))), "2 certificates, want one"},
		"too large":                 {with("ca-crl.pem", bytes.Repeat([]byte("\n"), maxPlugged)), "too large"},
		"no roots":                  {with("root-cert.pem", []byte{}), "root-cert.pem: no certificate"},
		"another root":              {with("root-cert.pem", encodeCertificates(certs(other))), "none of them signed it"},
		"root twice":                {with("root-cert.pem", encodeCertificates(certs(root, root))), "is there twice"},
		"root is none":              {notSelfSigned, "is not self-signed"},
		"root is a leaf":            {with("root-cert.pem", encodeCertificates(append(certs(root), selfSignedLeaf(t, true)))), "is not that of a CA"},
		"root is of no kind":        {with("root-cert.pem", encodeCertificates(append(certs(root), selfSignedLeaf(t, false)))), "is not that of a CA"},
		"gap in the chain":          {with("cert-chain.pem", []byte{}), "none of them signed it"},
		"wrong order":               {with("cert-chain.pem", encodeCertificates(certs(root, middle))), "names another issuer"},
		"more than the chain":       {with("cert-chain.pem", encodeCertificates(certs(middle, root, other))), "names another issuer"},
		"root inside":               {with("cert-chain.pem", encodeCertificates(certs(middle, root, root))), "is a root, but does not come last"},
		"leaf":                      {below(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), "is not that of a CA"},
		"may not sign certificates": {below(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "is not that of a CA"},
		"no key identifier":         {files(t, bare(t, middle), certs(middle), certs(root)), "has no subject key identifier"},
		"wrong authority identifier": {below(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 35}, Value: []byte{0x30, 3, 0x80, 1, 9}}}
		}), "authority key identifier is not that of"},
		"RSA of 1024 bits":              {files(t, weak, certs(middle), certs(root)), "only 2048 to 4096"},
		"P-521":                         {files(t, odd, certs(middle), certs(root)), "only P-256 and P-384"},
		"ended":                         {below(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), `certificate "CN=last": ended at 2026-06-01T11:59:59Z`},
		"ends in a minute":              {below(func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Minute) }), "expires at"},
		"not yet":                       {below(func(c *x509.Certificate) { c.NotBefore = noon.Add(hour) }), "not valid before"},
		"middle ended":                  {between(func(c *x509.Certificate) { c.NotAfter = noon.Add(-hour) }), `certificate "CN=middle": ended at`},
		"middle allows none below":      {between(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }), `certificate "CN=middle": allows 0 CAs below it, has 1`},
		"may not sign for our domain":   {below(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.com"} }), "signed for trial"},
		"nor may what is above it":      {between(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"cluster.local"} }), "signed for trial"},
		"may not sign for servers":      {below(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }), "signed for trial"},
		"for servers only":              {below(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "incompatible key usage"},
		"list is garbage":               {with("ca-crl.pem", []byte("x")), "ca-crl.pem: holds something else"},
		"list is empty":                 {with("ca-crl.pem", []byte{}), "ca-crl.pem: no revocation list"},
		"garbled list before good ones": {with("ca-crl.pem", append([]byte("-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n"), list(t, root)...)), "malformed PEM block"},
		"list of the root only":         {with("ca-crl.pem", list(t, root)), `certificate "CN=last": no list of its issuer`},
		"signer is revoked":             {with("ca-crl.pem", append(list(t, root), list(t, middle, last.cert)...)), `certificate "CN=last": is revoked`},
		"list of a namesake's key":      {with("ca-crl.pem", append(list(t, root), list(t, renamed)...)), `certificate "CN=last": no list of its issuer`},
		"list of a stranger":            {with("ca-crl.pem", append(append(list(t, root), list(t, middle)...), list(t, other)...)), "signed by none of these CAs"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(plug(c.files), Options{}, noon)
			wantError(t, err, c.want)
			if err != nil && !strings.HasPrefix(err.Error(), "secret istio-system/cacerts: ") {
				t.Errorf("%v: does not say where", err)
			}
		})
	}
	t.Run("no trust domain was chosen", func(t *testing.T) {
		m := plug(plain)
		m.DomainChosen = false
		_, err := Start(m, Options{}, noon)
		wantError(t, err, "set trust-domain, to cluster.local if that is the one, in manifests/base/settings/citadel.yaml")
	})
	t.Run("unreadable", func(t *testing.T) {
		m := plug(plain)
		m.Plugged.Unread = []string{"open x: permission denied"}
		_, err := Start(m, Options{}, noon)
		wantError(t, err, "open x: permission denied")
	})
}

// bare is a CA without a subject key identifier, which the standard library would add.
func bare(t *testing.T, parent authorityCert) authorityCert {
	t.Helper()
	ca := parent.below(t, "bare", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid = false, false
		c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}
	})
	if !ca.cert.IsCA || len(ca.cert.SubjectKeyId) > 0 {
		t.Fatal("is not what the test needs")
	}
	return ca
}

// bareRoot is a root without a subject key identifier.
func bareRoot(t *testing.T) authorityCert {
	t.Helper()
	root := corporate(t, "bare root")
	template := *root.cert
	template.PublicKey, template.SubjectKeyId, template.IsCA, template.BasicConstraintsValid = nil, nil, false, false
	template.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}
	bare := authorityCert{&template, root.key}.selfSigned(t)
	if !bare.cert.IsCA || len(bare.cert.SubjectKeyId) > 0 {
		t.Fatal("is not what the test needs")
	}
	return bare
}

func selfSignedLeaf(t *testing.T, marked bool) *x509.Certificate {
	t.Helper()
	key := ecdsaKey(t, elliptic.P256())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: noon, NotAfter: noon.Add(time.Hour), BasicConstraintsValid: marked,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return parseLeaf(t, inPEM("CERTIFICATE", der))
}

// Whatever the files hold, there is an error that does not tell the key, or a CA that can
// sign. The keys are made once, and are of the kind that signs fastest.
func FuzzPluggedFiles(f *testing.F) {
	root, other := corporate(f, "root"), corporate(f, "other")
	for _, ca := range []*authorityCert{&root, &other} {
		ca.key = ecdsaKey(f, elliptic.P256())
		*ca = ca.selfSigned(f)
	}
	middle := root.below(f, "middle", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign })
	last := middle.below(f, "last", nil)
	ended := root.below(f, "ended", func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) })
	limited := root.below(f, "limited", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.com"} })
	pieces := [][]byte{
		encodeCertificate(last.cert), encodeCertificate(middle.cert), encodeCertificate(root.cert), encodeCertificate(other.cert),
		keyText(f, last.key), keyText(f, root.key), list(f, root), list(f, middle), list(f, middle, last.cert),
		encodeCertificate(ended.cert), keyText(f, ended.key), encodeCertificate(limited.cert), keyText(f, limited.key), []byte(" \n"),
	}
	f.Add(pick(0), pick(4), pick(1), pick(2), pick(), false)
	f.Add(pick(0), pick(4), pick(0, 1, 2), pick(3, 2), pick(6, 7), false)
	f.Add(pick(0, 1), pick(4), pick(), pick(2), pick(), true)
	f.Add(pick(2), pick(5), pick(13), pick(2), pick(8), false)
	f.Add(pick(9), pick(10), pick(), pick(2), pick(), false)
	f.Add(pick(11, 2), pick(12), pick(), pick(2), pick(6), true)
	f.Add(append(pick(0), 5, 0, 30, 1), append(pick(4), 4, 0, 9, 'A'), append(pick(1), 6, 0, 60, 0), append(pick(2), 7, 0, 9, 1), pick(), false)
	f.Fuzz(func(t *testing.T, cert, key, chain, roots, crl []byte, tls bool) {
		cert, key, chain = spoil(cert, pieces), spoil(key, pieces), spoil(chain, pieces)
		roots, crl = spoil(roots, pieces), spoil(crl, pieces)
		m := map[string][]byte{"ca-cert.pem": cert, "ca-key.pem": key, "cert-chain.pem": chain, "root-cert.pem": roots}
		if tls {
			m = map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": roots}
		}
		if len(crl) > 0 {
			m["ca-crl.pem"] = crl
		}
		a, err := Start(plug(m), Options{}, noon)
		if err != nil {
			if len(key) > 8 && bytes.Contains([]byte(err.Error()), key) {
				t.Error("the error quotes the key")
			}
			return
		}
		// What was accepted can sign, and its own roots verify it.
		s, err := a.NewSecret(sleep, noon)
		if err != nil {
			t.Fatal(err)
		}
		expectChainIn(t, s, a.Bundle(), noon)
	})
}
