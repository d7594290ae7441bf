package ca

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"maps"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// ask sends a request for ttl to the service.
func ask(t *testing.T, service securityapi.IstioCertificateServiceServer, ttl time.Duration) ([]string, error) {
	t.Helper()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
	out, err := service.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csrFor(t), ValidityDuration: int64(ttl.Seconds())})
	return out.GetCertChain(), err
}

// A certificate ends with the first of all that it hangs from, which is counted; when
// too little is left of those, none is issued, with a code that makes clients return.
func abuseLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		birth := time.Now()
		root := first(NewRoot(RootOptions{TTL: 96 * time.Hour}, birth))
		brief := first(DesiredIntermediate(root, nil, IntermediateOptions{TTL: 48 * time.Hour}, birth))
		a, err := Start(Material{Root: root, Intermediate: brief}, Options{}, birth)
		if err != nil {
			t.Fatal(err)
		}
		registry := prometheus.NewRegistry()
		service := NewService(a, asSleep, ServiceOptions{Metrics: NewMetrics(registry, a)})
		end := birth.Add(48 * time.Hour)
		for _, ttl := range []time.Duration{24 * time.Hour, 72 * time.Hour, DefaultMaxTTL} {
			chain, err := ask(t, service, ttl)
			if err != nil {
				t.Fatal(err)
			}
			leaf := parseLeaf(t, chain[0])
			want := birth.Add(ttl)
			if want.After(end) {
				want = end
			}
			if !leaf.NotAfter.Equal(want) {
				t.Errorf("asked for %v: ends %v, want %v", ttl, leaf.NotAfter, want)
			}
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP citadel_server_shortened_cert_issuance_count Certificates issued on request for less time than it asked for, because the signing certificate or a root ends, or there is no pod.
# TYPE citadel_server_shortened_cert_issuance_count counter
citadel_server_shortened_cert_issuance_count 2
`), "citadel_server_shortened_cert_issuance_count"); err != nil {
			t.Error(err)
		}
		time.Sleep(48*time.Hour - minLifetime + time.Second)
		if chain, err := ask(t, service, time.Hour); status.Code(err) != codes.Unavailable {
			t.Errorf("with less than the least left: %d elements, %v", len(chain), err)
		}
	})
}

// However the files of a plugged-in CA are spoilt: while it runs, Citadel signs with
// what it had and says so; when it starts, it does not, whatever else it could sign with.
func abuseSpoiltCA(t *testing.T) {
	root, other := corporate(t, "root"), corporate(t, "other")
	signer := root.below(t, "signer", nil)
	good := files(t, signer, nil, certs(root))
	ended := files(t, root.below(t, "signer", func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), nil, certs(root))
	noCA := files(t, root.below(t, "signer", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }), nil, certs(root))
	reordered := maps.Clone(good)
	reordered["cert-chain.pem"] = encodeCertificates(certs(root, signer))
	mismatch := maps.Clone(good)
	mismatch["ca-key.pem"] = keyText(t, root.key)
	half := maps.Clone(good)
	delete(half, "ca-key.pem")
	cut := maps.Clone(good)
	cut["ca-cert.pem"] = cut["ca-cert.pem"][:200]

	own := first(NewRoot(RootOptions{}, noon))
	selfSigned := Material{Root: own, Intermediate: intermediate(t, own, nil, noon), DomainChosen: true}
	for name, spoilt := range map[string]map[string][]byte{
		"half written": half, "cut off": cut, "key of another": mismatch, "wrong order": reordered, "ended": ended, "not a CA": noCA,
		"empty": {}, "another root": files(t, other.below(t, "signer", nil), nil, certs(other)),
	} {
		t.Run(name, func(t *testing.T) {
			m := selfSigned
			m.Plugged = &PluggedFiles{From: "secret istio-system/cacerts", Files: good}
			a, err := Start(m, Options{}, noon)
			if err != nil {
				t.Fatal(err)
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(newCertificates(a))
			expectRefused := func(want string) {
				t.Helper()
				if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP citadel_ca_material_refused 1 while the CA that was found last is not the one in use; the log says why.
# TYPE citadel_ca_material_refused gauge
citadel_ca_material_refused `+want+"\n"), "citadel_ca_material_refused"); err != nil {
					t.Error(err)
				}
			}
			bundle := a.Bundle()
			m.Plugged = &PluggedFiles{From: "secret istio-system/cacerts", Files: spoilt}
			if changed, err := a.Replace(m, noon); changed || err == nil {
				t.Errorf("Replace = %t, %v", changed, err)
			}
			expectRefused("1")
			if err := a.Ready(noon); err != nil {
				t.Errorf("not ready, though the last good one is: %v", err)
			}
			expectChainIn(t, newSecret(t, a, sleep, noon), bundle, noon)
			if notices, urgent := a.Status().Notices(noon); len(notices) != 1 || !urgent || !strings.Contains(notices[0], "cacerts") {
				t.Errorf("notices %q, urgent %t", notices, urgent)
			}
			gone := m
			gone.Plugged = nil
			if _, err := a.Replace(gone, noon); err == nil || a.Status().Source != mesh.CAPlugged {
				t.Errorf("gone altogether: %v, %s signs", err, a.Status().Source)
			}
			m.Trusted = bundle
			if _, err := Start(m, Options{}, noon); err == nil {
				t.Error("starts with it")
			}
			m.Plugged.Files = good
			if _, err := a.Replace(m, noon); err != nil {
				t.Errorf("mended: %v", err)
			}
			expectRefused("0")
		})
	}
}

// A clock that is wrong by an hour either way makes nothing that is not valid for those
// whose clock is right, or is put right when the clock is.
func abuseClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		birth := time.Now().Add(time.Hour) // by a clock that is right; ours is late
		root := first(NewRoot(RootOptions{}, birth))
		made := intermediate(t, root, nil, birth)
		a, err := Start(Material{Root: root, Intermediate: made}, Options{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		service := NewService(a, asSleep, ServiceOptions{})
		if _, err := ask(t, service, time.Hour); status.Code(err) != codes.Unavailable {
			t.Errorf("an hour late: %v", err)
		}
		if _, err := a.NewSecret(sleep, time.Now()); !errors.Is(err, errIssuer) || a.Ready(time.Now()) == nil {
			t.Errorf("an hour late, Secret: %v", err)
		}
		if next, err := DesiredIntermediate(root, made, IntermediateOptions{}, time.Now()); next != nil || err != nil {
			t.Errorf("an hour late, another intermediate is wanted: %v", err)
		}
		if _, err := DesiredIntermediate(root, nil, IntermediateOptions{}, time.Now()); !errors.Is(err, errIssuer) {
			t.Errorf("an hour late, intermediate: %v", err)
		}

		time.Sleep(time.Hour) // now it is right
		chain, err := ask(t, service, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		between := parseLeaf(t, chain[1])
		for _, node := range []time.Duration{-skew, -30 * time.Second, 0, 30 * time.Second} {
			expectLeaf(t, parseLeaf(t, chain[0]), chain[2], sleepID, nil, time.Now().Add(node), between)
		}

		ahead := time.Now().Add(time.Hour)
		early := newSecret(t, a, sleep, ahead) // of no use to anybody for an hour
		_, err = a.CheckSecret(sleep, early, time.Now())
		wantError(t, err, "not yet valid")
		late := newSecret(t, a, sleep, time.Now())
		if renew, err := a.CheckSecret(sleep, late, ahead); err != nil || !renew.After(ahead) {
			t.Errorf("an hour ahead, a good Secret is renewed: %v, %v", renew, err)
		}
		if next, err := DesiredIntermediate(root, made, IntermediateOptions{}, ahead); next != nil || err != nil {
			t.Errorf("an hour ahead, another intermediate is wanted: %v", err)
		}
		// An intermediate made an hour ahead does not take the place of one that can sign.
		fast, err := DesiredIntermediate(root, nil, IntermediateOptions{}, ahead)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Replace(Material{Root: root, Intermediate: fast}, time.Now())
		wantError(t, err, "not valid before")
		if err := a.Ready(time.Now()); err != nil {
			t.Error(err)
		}
	})
}

// Serials are random: replicas that share a key and start together never agree on one.
func abuseSerials(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	made := intermediate(t, root, nil, noon)
	seen := map[string]bool{}
	var ones, bits int
	for range 4 { // replicas, or restarts
		a, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			serial := parseCertificatesIn(t, newSecret(t, a, sleep, noon).Data[mesh.CertChain])[0].SerialNumber
			if seen[serial.String()] {
				t.Errorf("serial %s twice", serial)
			}
			seen[serial.String()] = true
			low := new(big.Int).And(serial, new(big.Int).SetUint64(1<<63|(1<<63-1)))
			for b := range 64 {
				ones += int(low.Bit(b))
			}
			bits += 64
		}
	}
	// Sixty standard deviations wide; a counter would be far off.
	if share := float64(ones) / float64(bits); share < 0.4 || share > 0.6 {
		t.Errorf("of the low 64 bits %.3f are ones: not random", share)
	}
	for range 50 { // CAs, too
		serial := parseLeaf(t, string(intermediate(t, root, nil, noon).Data[mesh.CACertKey])).SerialNumber
		if seen[serial.String()] || serial.BitLen() < 120 {
			t.Errorf("serial %s of an intermediate", serial)
		}
		seen[serial.String()] = true
	}
}

func parseCertificatesIn(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	certs, err := parseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// Two clusters hang from one root. The intermediate of one is stolen, and mints
// identities of the other.
func abuseForeignIntermediate(t *testing.T) {
	root := corporate(t, "root")
	constrained := func(domain string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{domain}, true
		}
	}
	mint := func(by authorityCert) (leaf *x509.Certificate, chain []byte) {
		key := ecdsaKey(t, elliptic.P256())
		template := &x509.Certificate{
			SerialNumber: new(big.Int).Lsh(big.NewInt(1), 100), NotBefore: noon, NotAfter: noon.Add(time.Hour),
			URIs: urls(t, sleepID), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, SubjectKeyId: []byte{1},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
		if err != nil {
			t.Fatal(err)
		}
		leaf = parseLeaf(t, inPEM("CERTIFICATE", der))
		return leaf, encodeCertificates(append([]*x509.Certificate{leaf}, by.cert))
	}
	verify := func(leaf *x509.Certificate, by authorityCert) error {
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root.cert)
		between.AddCert(by.cert)
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: noon, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		return err
	}

	ours := root.below(t, "ours", constrained("cluster.local"))
	theirs := root.below(t, "theirs", constrained("b.example"))
	bundle := encodeCertificates(certs(root))
	leaf, chain := mint(ours)
	if err := errors.Join(verify(leaf, ours), opensslVerify(t, chain, bundle, noon)); err != nil {
		t.Errorf("the constraint keeps out its own trust domain: %v", err)
	}
	leaf, chain = mint(theirs)
	wantError(t, verify(leaf, theirs), "not authorized to sign for this name")
	wantError(t, opensslVerify(t, chain, bundle, noon), "permitted subtree violation")

	// A Citadel with that intermediate signs for its own trust domain or not at all.
	_, err := Start(plug(files(t, theirs, nil, certs(root))), Options{}, noon)
	wantError(t, err, "not authorized to sign for this name")
	domain, err := identity.ParseTrustDomain("b.example")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(plug(files(t, theirs, nil, certs(root))), Options{TrustDomain: domain}, noon); err != nil {
		t.Errorf("for its own: %v", err)
	}

	// Where it is not constrained, its certificates are still none that Citadel would
	// leave in a Secret.
	free := root.below(t, "free", nil)
	a, err := Start(plug(files(t, ours, nil, certs(root))), Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Start(plug(files(t, free, nil, certs(root))), Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	planted := newSecret(t, b, sleep, noon)
	if !bytes.Equal(planted.Data[mesh.CertRoot], a.Bundle()) {
		t.Fatal("not the same root")
	}
	_, err = a.CheckSecret(sleep, planted, noon)
	wantError(t, err, "is not between the signing certificate and a root")
}
