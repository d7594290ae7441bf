package ca

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func inUse(t testing.TB, certs ...*x509.Certificate) RootsInUse {
	t.Helper()
	r, err := ReadRootsInUse(encodeCertificates(certs))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What Citadel makes is good in every kind of CA, and the annotations say the same.
func TestHeldOfOwnSecrets(t *testing.T) {
	direct, _ := open(t, noon, Options{})
	below, path := openBelow(t, noon)
	for name, a := range map[string]*Authority{"root signs": direct, "two below the root": below} {
		roots := inUse(t, a.current.Load().roots...)
		s := newSecret(t, a, sleep, noon)
		leaf := parseCertificatesIn(t, s.Data[mesh.CertChain])[0]
		signer, root := a.current.Load().cert, a.current.Load().roots[0]
		want := Held{
			Holds: HoldsWorkload, Account: "sleep", ID: sleepID, Subject: leaf.Subject.String(), Fingerprint: fingerprint(leaf),
			NotAfter: leaf.NotAfter, Key: KeyFits, Signer: fingerprint(signer), Roots: []string{fingerprint(root)},
		}
		if diff := cmp.Diff(want, roots.Secret(s, noon)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(want, RootsInUse{}.Secret(s, noon)); diff != "" {
			t.Errorf("%s, roots not known (-want +got):\n%s", name, diff)
		}
		if h := roots.Bundle(a.Bundle(), noon); len(h.Problems) > 0 || !h.NotAfter.Equal(root.NotAfter) {
			t.Errorf("%s: bundle: %+v", name, h)
		}
		noted := roots.Annotations(s.ObjectMeta, noon)
		if noted.Fingerprint != want.Fingerprint || !noted.NotAfter.Equal(want.NotAfter) || len(noted.Problems) > 0 {
			t.Errorf("%s: annotations: %+v", name, noted)
		}
		if h := (RootsInUse{}).Annotations(s.ObjectMeta, noon); len(h.Problems) > 0 {
			t.Errorf("%s, roots not known: annotations: %q", name, h.Problems)
		}
		ended := leaf.NotAfter.Add(time.Second)
		for _, h := range []Held{roots.Secret(s, ended), roots.Annotations(s.ObjectMeta, ended)} {
			if len(h.Problems) != 1 || !strings.HasPrefix(h.Problems[0], "ended at ") {
				t.Errorf("%s: after its end: %q", name, h.Problems)
			}
		}
	}
	// The end of what lies between is the leaf's end for everybody who verifies it.
	s := newSecret(t, below, sleep, noon)
	short := path[0].NotAfter.Add(time.Hour)
	if h := inUse(t, path[2]).Secret(s, short); len(h.Problems) == 0 {
		t.Error("good after its signer's end")
	}
}

func TestHeldSpoilt(t *testing.T) {
	a, path := openBelow(t, noon)
	roots := inUse(t, path[2])
	stranger := corporate(t, "stranger")
	for _, c := range []struct {
		want  string
		spoil func(*corev1.Secret)
	}{
		{"its name is not istio.", func(s *corev1.Secret) { s.Name = "sleep" }},
		{"its name is not istio.", func(s *corev1.Secret) { s.Name = "istio." }},
		{"is that of account default/sleep", func(s *corev1.Secret) { s.Namespace = "other" }},
		{"is that of account default/sleep", func(s *corev1.Secret) { s.Name = "istio.other" }},
		{"cert-chain.pem: no certificate", func(s *corev1.Secret) { delete(s.Data, mesh.CertChain) }},
		{"key.pem: not there", func(s *corev1.Secret) { s.Data[mesh.CertKey] = []byte("\n") }},
		{"key.pem: no PEM block", func(s *corev1.Secret) { s.Data[mesh.CertKey] = []byte("k") }},
		{"key.pem: not the key", func(s *corev1.Secret) { s.Data[mesh.CertKey] = keyText(t, ecdsaKey(t, elliptic.P256())) }},
		{"root-cert.pem: no certificate", func(s *corev1.Secret) { s.Data[mesh.CertRoot] = nil }},
		{"root-cert.pem trusts root " + Short(fingerprint(stranger.cert)), func(s *corev1.Secret) {
			s.Data[mesh.CertRoot] = append(s.Data[mesh.CertRoot], encodeCertificate(stranger.cert)...)
		}},
		{"root-cert.pem lacks root " + Short(fingerprint(path[2])), func(s *corev1.Secret) { s.Data[mesh.CertRoot] = encodeCertificate(stranger.cert) }},
		{"signed by none of them", func(s *corev1.Secret) {
			s.Data[mesh.CertChain] = encodeCertificate(parseCertificatesIn(t, s.Data[mesh.CertChain])[0])
		}},
		{"names no service account", func(s *corev1.Secret) {
			s.Data[mesh.CertChain] = encodeCertificate(stranger.below(t, "c", nil).cert)
		}},
	} {
		s := newSecret(t, a, sleep, noon)
		c.spoil(s)
		h := roots.Secret(s, noon)
		if !slices.ContainsFunc(h.Problems, func(p string) bool { return strings.Contains(p, c.want) }) {
			t.Errorf("%q, want %q", h.Problems, c.want)
		}
	}
	s := newSecret(t, a, sleep, noon)
	if h := roots.Secret(s, noon.Add(-time.Hour)); len(h.Problems) == 0 || !strings.HasPrefix(h.Problems[0], "not valid before ") {
		t.Errorf("before its time: %q", h.Problems)
	}
	// Of another root, it says which.
	s = newSecret(t, a, sleep, noon)
	if h := inUse(t, stranger.cert).Secret(s, noon); !slices.Equal(h.Roots, []string{fingerprint(path[2])}) || len(h.Problems) != 3 {
		t.Errorf("of another root: %+v", h)
	}
	h := inUse(t, stranger.cert).Annotations(s.ObjectMeta, noon)
	if !slices.Equal(h.Problems, []string{"made with other roots than those in use"}) {
		t.Errorf("annotations of another root: %q", h.Problems)
	}
	// Annotations that say nothing.
	for want, text := range map[string]string{"no annotation": "", "is no time": "soon"} {
		meta := metav1.ObjectMeta{Name: "istio.sleep", Annotations: map[string]string{mesh.SecretExpiry: text}}
		if text == "" {
			meta.Annotations = nil
		}
		if h := roots.Annotations(meta, noon); len(h.Problems) != 1 || !strings.Contains(h.Problems[0], want) || !h.NotAfter.IsZero() {
			t.Errorf("%q: %+v", text, h)
		}
	}
}

func TestHeldBundle(t *testing.T) {
	one, two := corporate(t, "one"), corporate(t, "two")
	soon := one.resigned(t, one, func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Minute) })
	roots := inUse(t, two.cert, soon.cert)
	both := encodeCertificates([]*x509.Certificate{soon.cert, two.cert})
	h := roots.Bundle(both, noon)
	want := Held{Holds: HoldsRoots, NotAfter: soon.cert.NotAfter, Roots: []string{fingerprint(soon.cert), fingerprint(two.cert)}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for want, h := range map[string]Held{
		"root " + Short(fingerprint(soon.cert)) + " ended": roots.Bundle(both, noon.Add(time.Hour)),
		"lacks root " + Short(fingerprint(soon.cert)):      roots.Bundle(encodeCertificate(two.cert), noon),
		"no certificate": roots.Bundle(nil, noon),
	} {
		if len(h.Problems) != 1 || !strings.Contains(h.Problems[0], want) {
			t.Errorf("%q, want %q", h.Problems, want)
		}
	}
}

// The Secrets of the CA, in all the shapes that they come in.
func TestHeldByCA(t *testing.T) {
	rootSecret, err := NewRoot(RootOptions{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	root := rootOf(t, rootSecret)
	made := intermediate(t, rootSecret, nil, noon)
	birth := noon.Add(-300 * 24 * time.Hour)
	oldRoot, err := NewRoot(RootOptions{}, birth)
	if err != nil {
		t.Fatal(err)
	}
	renewed := intermediate(t, oldRoot, intermediate(t, oldRoot, nil, birth), noon)
	corp := corporate(t, "corp")
	middle := corp.below(t, "middle", nil)
	signer := middle.below(t, "signer", nil)
	path := certs(signer, middle, corp)
	plugged := func(files map[string][]byte) *corev1.Secret { return &corev1.Secret{Data: files} }
	offline := rootSecret.DeepCopy()
	delete(offline.Data, mesh.CAKeyKey)
	note := intermediateSecret("")
	note.Data = map[string][]byte{mesh.RootKey: encodeCertificate(corp.cert)}
	wrongKey := files(t, signer, path, path[2:])
	wrongKey[mesh.CAKeyKey] = keyText(t, corp.key)
	tornChain := files(t, signer, path, path[2:])
	tornChain[mesh.CertChain] = []byte("x")

	// A name alone makes no root: this one was signed with another key.
	posing := ecdsaKey(t, elliptic.P256())
	namesake := *corp.cert
	namesake.PublicKey = posing.Public()
	feigned := authorityCert{corp.cert, ecdsaKey(t, elliptic.P256())}.resigned(t, authorityCert{&namesake, posing}, func(*x509.Certificate) {})
	dear := authorityCert{corp.cert, ecdsaKey(t, elliptic.P521())}.selfSigned(t) // with that key nothing is verified, not even itself

	below, ofCorp := inUse(t, root.cert), inUse(t, corp.cert)
	for name, c := range map[string]struct {
		roots  RootsInUse
		secret *corev1.Secret
		want   string // role, key, problems and notes of each
	}{
		"root":              {below, rootSecret, "root fits"},
		"root key offline":  {below, offline, "root absent key offline"},
		"root not in use":   {ofCorp, rootSecret, "root fits does not verify by the roots in use: signed by none of them"},
		"intermediate":      {below, made, "signer fits | root "},
		"renewed":           {inUse(t, rootOf(t, oldRoot).cert), renewed, "signer fits | earlier  | root "},
		"only a note":       {ofCorp, note, "root "},
		"plugged":           {ofCorp, plugged(files(t, signer, path, path[2:])), "signer fits | intermediate  | root "},
		"plugged, no chain": {ofCorp, plugged(files(t, signer, nil, path[2:])), "signer fits does not verify by the roots in use: signed by none of them | root "},
		"cert-manager's": {ofCorp, plugged(map[string][]byte{
			"tls.crt": encodeCertificates(path[:2]), "tls.key": keyText(t, signer.key), "ca.crt": encodeCertificate(corp.cert),
		}), "signer fits | intermediate  | root "},
		"wrong key": {ofCorp, plugged(wrongKey), "signer wrong ca-key.pem: not the key of the certificate | intermediate  | root "},
		"no key":    {ofCorp, plugged(map[string][]byte{mesh.CACertKey: encodeCertificates(path)}), "signer absent ca-key.pem: not there | intermediate  | root "},
		"torn chain": {ofCorp, plugged(tornChain), "signer fits does not verify by the roots in use: signed by none of them | " +
			"intermediate  cert-chain.pem: holds something else than certificates | root "},
		"dear key": {ofCorp, plugged(map[string][]byte{mesh.CACertKey: encodeCertificate(dear.cert), mesh.CAKeyKey: keyText(t, dear.key)}),
			"signer fits does not verify by the roots in use: certificate \"CN=corp\": key: ECDSA on P-521: only P-256 and P-384 are accepted"},
		"feigned root": {ofCorp, plugged(map[string][]byte{mesh.CACertKey: encodeCertificate(feigned.cert), mesh.CAKeyKey: keyText(t, feigned.key)}),
			"signer fits does not verify by the roots in use: signed by none of them"},
		"empty": {ofCorp, plugged(nil), "signer  ca-cert.pem: no certificate"},
	} {
		var got []string
		for _, h := range c.roots.CASecret(c.secret, noon) {
			got = append(got, strings.Join(slices.Concat([]string{h.Holds, h.Key}, h.Problems, h.Notes), " "))
		}
		if strings.Join(got, " | ") != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, " | "), c.want)
		}
	}
	cert := parseLeaf(t, string(made.Data[mesh.CACertKey]))
	if h := below.CASecret(made, noon); h[0].Fingerprint != fingerprint(cert) || h[0].Subject != cert.Subject.String() ||
		!h[0].NotAfter.Equal(cert.NotAfter) || h[0].Signer != fingerprint(root.cert) || !slices.Equal(h[0].Roots, []string{fingerprint(root.cert)}) {
		t.Errorf("the intermediate: %+v", h[0])
	}
}

// What Citadel is content with, has no problem; damage of any kind never panics.
func TestHeldFindsNoMoreThanCitadel(t *testing.T) {
	a, path := openBelow(t, noon)
	s := newSecret(t, a, sleep, noon)
	roots, random := inUse(t, path[2]), rand.New(rand.NewPCG(1, 2))
	damage := []func([]byte) []byte{
		func(b []byte) []byte { b[random.IntN(len(b))] ^= 1 << random.IntN(8); return b },
		func(b []byte) []byte { return b[:random.IntN(len(b))] },
		func(b []byte) []byte { return slices.Concat(b[:random.IntN(len(b))], b[random.IntN(len(b)):]) },
		func(b []byte) []byte { return slices.Concat(b, b) },
		func(b []byte) []byte { return slices.Concat(b, []byte("\n\n")) },
	}
	content := 0
	for range 500 {
		damaged := s.DeepCopy()
		key := []string{mesh.CertChain, mesh.CertKey, mesh.CertRoot}[random.IntN(3)]
		damaged.Data[key] = damage[random.IntN(len(damage))](damaged.Data[key])
		h := roots.Secret(damaged, noon)
		if _, err := a.CheckSecret(sleep, damaged, noon); err != nil {
			continue
		}
		if content++; len(h.Problems) > 0 {
			t.Errorf("Citadel is content, and the list says %q", h.Problems)
		}
	}
	if content == 0 || content == 500 {
		t.Errorf("Citadel is content with %d of 500: nothing was compared", content)
	}
}

// Whoever may write a Secret can put anything there. Nothing of the key comes out.
func FuzzHeld(f *testing.F) {
	root, err := NewRoot(RootOptions{}, noon)
	if err != nil {
		f.Fatal(err)
	}
	made := intermediate(f, root, nil, noon)
	a, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
	if err != nil {
		f.Fatal(err)
	}
	stranger, _ := open(f, noon, Options{})
	s, other, theirs := newSecret(f, a, sleep, noon), newSecret(f, a, ztunnel, noon), newSecret(f, stranger, sleep, noon)
	pieces := [][]byte{
		s.Data[mesh.CertChain], s.Data[mesh.CertKey], s.Data[mesh.CertRoot],
		other.Data[mesh.CertChain], other.Data[mesh.CertKey],
		theirs.Data[mesh.CertChain], theirs.Data[mesh.CertKey], theirs.Data[mesh.CertRoot],
		made.Data[mesh.CACertKey], made.Data[mesh.CAKeyKey], root.Data[mesh.CAKeyKey],
		keyText(f, ecdsaKey(f, elliptic.P384())),
	}
	f.Add(pick(0), pick(1), pick(2))
	f.Add(pick(1), pick(0), pick())
	f.Add(pick(2), pick(10), pick(2, 7))
	f.Add(pick(8), pick(9), pick(2))
	f.Add(pick(3), pick(4), pick(7))
	f.Add(append(pick(5), 5, 0, 40, 1), append(pick(6), 6, 0, 9, 0), append(pick(2), 7, 1, 0, 3))
	roots := inUse(f, a.current.Load().roots...)
	f.Fuzz(func(t *testing.T, chain, key, bundle []byte) {
		chain, key, bundle = spoil(chain, pieces), spoil(key, pieces), spoil(bundle, pieces)
		secret := s.DeepCopy()
		secret.Data = map[string][]byte{
			mesh.CertChain: chain, mesh.CertKey: key, mesh.CertRoot: bundle, mesh.CACertKey: chain, mesh.CAKeyKey: key,
		}
		ofAccount := roots.Secret(secret, noon)
		if _, err := a.CheckSecret(sleep, secret, noon); err == nil && len(ofAccount.Problems) > 0 {
			t.Errorf("Citadel is content, and the list says %q", ofAccount.Problems)
		}
		found := append(roots.CASecret(secret, noon), ofAccount, roots.Bundle(bundle, noon))
		for _, h := range found {
			// Either all is well, or it is said; what is held by no root in use never is.
			if len(h.Problems) == 0 && len(h.Roots) == 0 {
				t.Errorf("neither a root nor a problem: %+v", h)
			}
		}
		text, err := json.Marshal(found)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(key) {
			if line = bytes.TrimSpace(line); len(line) > 40 && !bytes.HasPrefix(line, []byte("-----")) && bytes.Contains(text, line) {
				t.Errorf("a line of the key is told: %s", line)
			}
		}
	})
}
