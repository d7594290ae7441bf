package ca

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"testing"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestWitness(t *testing.T) {
	a, _ := open(t, noon, Options{})
	cert := parseLeaf(t, string(newSecret(t, a, sleep, noon).Data[mesh.CertChain]))
	other := parseLeaf(t, string(newSecret(t, a, sleep, noon).Data[mesh.CertChain]))
	digest := sha256.Sum256(cert.RawTBSCertificate)
	right := func() *witness {
		return &witness{hash: crypto.SHA256, digest: digest[:], signature: cert.Signature}
	}
	if !right().saw(cert) {
		t.Error("does not know what it signed")
	}
	if right().saw(other) {
		t.Error("takes another certificate of the same issuer for its own")
	}
	grafted := *other
	grafted.Signature = cert.Signature
	if right().saw(&grafted) {
		t.Error("takes its signature under other content for its own")
	}
	if new(witness).saw(cert) {
		t.Error("saw something before it signed")
	}
}

func TestWitnessSignsOnce(t *testing.T) {
	w := &witness{key: ecdsaKey(t, elliptic.P256())}
	digest := sha256.Sum256([]byte("first"))
	if _, err := w.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		t.Fatal(err)
	}
	_, err := w.Sign(rand.Reader, digest[:], crypto.SHA256)
	wantError(t, err, "second signature")
}

// That signatures are right is left to the standard library; this is the proof
// that it looks.
func TestIssueRefusesWrongSignatures(t *testing.T) {
	a, _ := open(t, noon, Options{})
	i := *a.current.Load()
	i.key = corrupt{i.key}
	_, err := i.issue(names{id: mustID(t, sleepID)}, mustParse(t, csrFor(t)), noon, time.Hour)
	if err == nil {
		t.Error("issued with a key that signs wrongly")
	}
}

// corrupt is a key whose signatures are wrong, as a faulty machine's may be.
type corrupt struct{ crypto.Signer }

func (c corrupt) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	wrong := sha256.Sum256(digest)
	return c.Signer.Sign(r, wrong[:], opts)
}
