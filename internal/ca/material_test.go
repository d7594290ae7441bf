package ca

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Which kind of CA signs is never decided by what went missing.
func TestMode(t *testing.T) {
	own := first(NewRoot(RootOptions{}, noon))
	below := intermediate(t, own, nil, noon)
	root := corporate(t, "root")
	cacerts := plug(files(t, root.below(t, "signer", nil), nil, certs(root))).Plugged
	noted := below.DeepCopy()
	noted.Annotations[mesh.CASourceAnnotation] = mesh.CAPlugged
	for name, c := range map[string]struct {
		m     Material
		want  string // the source
		wrong string
	}{
		"auto, nothing plugged in":       {Material{Root: own, Intermediate: below}, "self-signed", ""},
		"auto, plugged in":               {Material{Root: own, Intermediate: below, Plugged: cacerts}, "plugged", ""},
		"auto, was plugged in":           {Material{Root: own, Intermediate: noted}, "", "is gone: put secret cacerts back"},
		"auto, spoilt":                   {Material{Root: own, Intermediate: below, Plugged: &PluggedFiles{From: "cacerts"}}, "", "holds neither"},
		"self-signed, plugged in":        {Material{Mode: SelfSigned, Root: own, Intermediate: below, Plugged: cacerts}, "self-signed", ""},
		"self-signed, was plugged in":    {Material{Mode: SelfSigned, Root: own, Intermediate: noted}, "self-signed", ""},
		"plugged, nothing plugged in":    {Material{Mode: Plugged, Root: own, Intermediate: below}, "", "is gone"},
		"plugged":                        {Material{Mode: Plugged, Plugged: cacerts}, "plugged", ""},
		"self-signed, no root":           {Material{Intermediate: below}, "", "secret istio-ca-secret: is not there"},
		"self-signed, no intermediate":   {Material{Root: own}, "", "secret garrison-ca-intermediate: is not there"},
		"was plugged in, signs directly": {Material{Root: own, Intermediate: noted, Direct: true}, "", "is gone"},
	} {
		c.m.DomainChosen = true
		a, err := Start(c.m, Options{}, noon)
		switch {
		case c.wrong != "":
			if err == nil {
				t.Errorf("%s: signs with %s", name, a.Status().From)
			} else {
				wantError(t, err, c.wrong)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case a.Status().Source != c.want:
			t.Errorf("%s: %s signs, want %s", name, a.Status().Source, c.want)
		}
	}
	for _, m := range []Mode{Auto, SelfSigned, Plugged} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("%v read as %v, %v", m, got, err)
		}
	}
	_, err := ParseMode("none")
	wantError(t, err, "auto, self-signed or plugged")
}

// What took the CA's place is noted, on the way there and on the way back.
func TestRemember(t *testing.T) {
	own := first(NewRoot(RootOptions{}, noon))
	below := intermediate(t, own, nil, noon)
	self, err := Start(Material{Root: own, Intermediate: below}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	root := corporate(t, "root")
	plugged, err := Start(plug(files(t, root, nil, certs(root))), Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if got := self.Remember(below); got != nil {
		t.Error("noted twice")
	}
	if got := self.Remember(nil); got != nil {
		t.Error("noted where there is nothing")
	}
	noted := plugged.Remember(below)
	if noted == nil || remembered(noted) != mesh.CAPlugged || !bytes.Equal(noted.Data[mesh.CAKeyKey], below.Data[mesh.CAKeyKey]) {
		t.Fatalf("%+v", noted)
	}
	if plugged.Remember(noted) != nil || remembered(below) != mesh.CASelfSigned {
		t.Error("noted twice, or in the wrong place")
	}
	if back := self.Remember(noted); back == nil || remembered(back) != mesh.CASelfSigned {
		t.Errorf("on the way back: %+v", back)
	}
	if fresh := plugged.Remember(nil); fresh == nil || fresh.Name != mesh.IntermediateSecret || fresh.Type != mesh.IntermediateSecretType {
		t.Errorf("%+v", fresh)
	}
}

// Roots change one step at a time: nothing is signed below a root that workloads may
// not know while the one they do know is left out.
func TestRootSuccession(t *testing.T) {
	a, b := corporate(t, "a"), corporate(t, "b")
	signerA, signerA2, signerB := a.below(t, "signer", nil), a.below(t, "signer 2", nil), b.below(t, "signer", nil)
	start := files(t, signerA, nil, certs(a))
	for name, c := range map[string]struct {
		steps []map[string][]byte
		wrong string // of the last step
	}{
		"new signer":              {[]map[string][]byte{files(t, signerA2, nil, certs(a))}, ""},
		"another root":            {[]map[string][]byte{files(t, signerB, nil, certs(b))}, "add that to root-cert.pem"},
		"both roots":              {[]map[string][]byte{files(t, signerA, nil, certs(a, b))}, ""},
		"new root, old one stays": {[]map[string][]byte{files(t, signerB, nil, certs(b, a))}, ""},
		"all steps": {[]map[string][]byte{
			files(t, signerA, nil, certs(a, b)), files(t, signerB, nil, certs(a, b)), files(t, signerB, nil, certs(b)),
		}, ""},
		"a step left out": {[]map[string][]byte{files(t, signerA, nil, certs(a, b)), files(t, signerB, nil, certs(b))}, "leave that in root-cert.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			authority, err := Start(plug(start), Options{}, noon)
			if err != nil {
				t.Fatal(err)
			}
			before := newSecret(t, authority, sleep, noon)
			trusted := authority.Bundle()
			for n, step := range c.steps {
				last := n == len(c.steps)-1
				was := authority.Bundle()
				changed, err := authority.Replace(plug(step), noon)
				if last && c.wrong != "" {
					wantError(t, err, c.wrong)
					if changed || !bytes.Equal(authority.Bundle(), was) || !strings.Contains(authority.Status().Refused, c.wrong) {
						t.Error("took it, or does not say why not")
					}
					return
				}
				if err != nil || !changed {
					t.Fatalf("step %d: %t, %v", n, changed, err)
				}
			}
			if c.wrong == "" && len(c.steps) == 1 { // whoever had A alone still verifies, unless B signs
				expectChainIn(t, before, authority.Bundle(), noon)
				if !bytes.Contains(authority.Bundle(), trusted) {
					t.Error("the root that was trusted is gone")
				}
			}
			if authority.Status().Refused != "" {
				t.Errorf("refused: %s", authority.Status().Refused)
			}
		})
	}

	// The same at start, where the ConfigMap tells what workloads hold.
	for name, c := range map[string]struct {
		m       Material
		trusted []*x509.Certificate
		wrong   string
	}{
		"first start":                 {plug(start), nil, ""},
		"the same root":               {plug(start), certs(a), ""},
		"another root":                {plug(start), certs(b), "add that to root-cert.pem"},
		"another one that has ended":  {plug(start), certs(b.resigned(t, b, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Minute) })), ""},
		"beside another one":          {plug(files(t, signerA, nil, certs(a, b))), certs(b), ""},
		"the other one was taken out": {plug(start), certs(a, b), ""},
	} {
		c.m.Trusted = encodeCertificates(c.trusted)
		_, err := Start(c.m, Options{}, noon)
		if c.wrong != "" {
			wantError(t, err, c.wrong)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	own := first(NewRoot(RootOptions{}, noon))
	noted := intermediate(t, own, nil, noon)
	noted.Annotations[mesh.CASourceAnnotation] = mesh.CAPlugged
	_, err := Start(Material{Mode: SelfSigned, Root: own, Intermediate: noted, Trusted: encodeCertificates(certs(a))}, Options{}, noon)
	wantError(t, err, "below a root that no workload trusts yet")
	if _, err := Start(Material{Root: own, Direct: true, Trusted: encodeCertificates(certs(a))}, Options{}, noon); err != nil {
		t.Errorf("a self-signed CA after a self-signed one: %v", err)
	}
}

// A signer that was replaced goes on to vouch for what it signed, while the process runs.
func TestPluggedSignerOverlap(t *testing.T) {
	root := corporate(t, "root")
	a, err := Start(plug(files(t, root.below(t, "one", nil), nil, certs(root))), Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	before := newSecret(t, a, sleep, noon)
	if _, err := a.Replace(plug(files(t, root.below(t, "two", nil), nil, certs(root))), noon); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*corev1.Secret{before, newSecret(t, a, sleep, noon)} {
		if _, err := a.CheckSecret(sleep, s, noon); err != nil {
			t.Error(err)
		}
	}
	own := first(NewRoot(RootOptions{}, noon))
	_, err = a.Replace(Material{Mode: SelfSigned, Root: own, Intermediate: intermediate(t, own, nil, noon)}, noon)
	wantError(t, err, "does not take the place of a plugged-in one")
}
