package ca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func newSecret(t testing.TB, a *Authority, account mesh.ServiceAccount, now time.Time) *corev1.Secret {
	t.Helper()
	s, err := a.NewSecret(account, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewSecret(t *testing.T) {
	a, _ := open(t, noon, Options{})
	s := newSecret(t, a, sleep, noon)
	want := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default",
			Name:      "istio.sleep",
			Labels:    map[string]string{"app.kubernetes.io/managed-by": "garrison"},
			Annotations: map[string]string{
				"istio.io/service-account.name":   "sleep",
				"garrison.io/service-account-uid": "8f2c",
				"garrison.io/certificate-expires": noon.Add(DefaultSecretTTL).Format(time.RFC3339),
				"garrison.io/certificate-sha256":  digest(parseLeaf(t, string(s.Data["cert-chain.pem"])).Raw),
				"garrison.io/roots-sha256":        digest(a.Bundle()),
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: "sleep", UID: "8f2c"}},
		},
		Type: "istio.io/key-and-cert",
		Data: s.Data,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("secret (-want +got):\n%s", diff)
	}
	if len(s.Data) != 3 {
		t.Errorf("%d keys in the data, want 3", len(s.Data))
	}
	if !bytes.Equal(s.Data["root-cert.pem"], a.Bundle()) {
		t.Error("root-cert.pem is not the bundle")
	}
	leaf := parseLeaf(t, string(s.Data["cert-chain.pem"]))
	expectLeaf(t, leaf, string(a.Bundle()), sleepID, nil, noon)
	if want := noon.Add(DefaultSecretTTL); !leaf.NotAfter.Equal(want) {
		t.Errorf("ends %v, want %v", leaf.NotAfter, want)
	}
	if _, err := tls.X509KeyPair(s.Data["cert-chain.pem"], s.Data["key.pem"]); err != nil {
		t.Error(err)
	}
	block, _ := pem.Decode(s.Data["key.pem"])
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		t.Error(err)
	}
	if again := newSecret(t, a, sleep, noon); bytes.Equal(again.Data["key.pem"], s.Data["key.pem"]) {
		t.Error("the same key twice")
	}
}

func TestSecretsOfServersHaveDNSNames(t *testing.T) {
	a, _ := open(t, noon, Options{ClusterDomain: "corp.example"})
	for account, want := range map[mesh.ServiceAccount][]string{
		{Namespace: "istio-system", Name: "istio-sidecar-injector-canary-service-account"}: {
			"istio-sidecar-injector-canary", "istio-sidecar-injector-canary.istio-system",
			"istio-sidecar-injector-canary.istio-system.svc", "istio-sidecar-injector-canary.istio-system.svc.corp.example",
		},
		{Namespace: "shop", Name: "istio-sidecar-injector-canary-service-account"}:      nil,
		{Namespace: "istio-system", Name: "istio-sidecar-injectors-service-account"}:    nil,
		{Namespace: "istio-system", Name: "istio-sidecar-injector-canary"}:              nil,
		{Namespace: "istio-system", Name: "istio-sidecar-injector--service-account"}:    nil,
		{Namespace: "istio-system", Name: "istio-sidecar-injector-a.b-service-account"}: nil, // no Service has a dot
		{Namespace: "istio-system", Name: "istio-sidecar-injector-service-account"}: {
			"istio-sidecar-injector", "istio-sidecar-injector.istio-system",
			"istio-sidecar-injector.istio-system.svc", "istio-sidecar-injector.istio-system.svc.corp.example",
		},
		{Namespace: "istio-system", Name: "istio-citadel-service-account"}: {
			"istio-citadel", "istio-citadel.istio-system",
			"istio-citadel.istio-system.svc", "istio-citadel.istio-system.svc.corp.example",
			"istio-ca", "istiod.istio-system.svc", "istiod-remote.istio-system.svc", "istio-pilot.istio-system.svc",
		},
		{Namespace: "istio-system", Name: "default"}:                     nil,
		{Namespace: "default", Name: "istio-citadel-service-account"}:    nil,
		{Namespace: "istio-system", Name: "istio-pilot.service-account"}: nil,
	} {
		s := newSecret(t, a, account, noon)
		leaf := parseLeaf(t, string(s.Data[mesh.CertChain]))
		expectLeaf(t, leaf, string(a.Bundle()), "spiffe://cluster.local/ns/"+account.Namespace+"/sa/"+account.Name, want, noon)
		if _, err := a.CheckSecret(account, s, noon); err != nil {
			t.Errorf("%s: %v", account, err)
		}
	}
}

func TestCheckSecretRefuses(t *testing.T) {
	a, _ := open(t, noon, Options{})
	other, _ := open(t, noon, Options{})
	httpbin := mesh.ServiceAccount{Namespace: "default", Name: "httpbin", UID: "77"}
	citadel := mesh.ServiceAccount{Namespace: "istio-system", Name: "istio-citadel-service-account", UID: "1"}
	cases := map[string]struct {
		spoil func(*corev1.Secret)
		want  string
	}{
		"no data":          {func(s *corev1.Secret) { s.Data = nil }, "root-cert.pem: not the roots in use"},
		"no key":           {func(s *corev1.Secret) { delete(s.Data, "key.pem") }, "key.pem"},
		"no chain":         {func(s *corev1.Secret) { delete(s.Data, "cert-chain.pem") }, "cert-chain.pem"},
		"garbage":          {func(s *corev1.Secret) { s.Data["cert-chain.pem"] = []byte("hello") }, "cert-chain.pem"},
		"roots of another": {func(s *corev1.Secret) { s.Data["root-cert.pem"] = other.Bundle() }, "root-cert.pem: not the roots in use"},
		"one root more":    {func(s *corev1.Secret) { s.Data["root-cert.pem"] = append(a.Bundle(), other.Bundle()...) }, "root-cert.pem"},
		"key of another":   {func(s *corev1.Secret) { s.Data["key.pem"] = newSecret(t, a, sleep, noon).Data["key.pem"] }, "private key does not match"},
		"certificate of another CA": {func(s *corev1.Secret) {
			foreign := newSecret(t, other, sleep, noon)
			s.Data["cert-chain.pem"], s.Data["key.pem"] = foreign.Data["cert-chain.pem"], foreign.Data["key.pem"]
		}, "unknown authority"},
		"certificate of another account": {func(s *corev1.Secret) {
			s.Data = newSecret(t, a, httpbin, noon).Data
		}, "want only " + sleepID},
		"annotation and certificate of another account": {func(s *corev1.Secret) {
			s.Data = newSecret(t, a, httpbin, noon).Data
			s.Annotations[mesh.ServiceAccountAnnotation] = "httpbin"
		}, "want only " + sleepID},
		"certificate with DNS names": {func(s *corev1.Secret) {
			s.Data = newSecret(t, a, citadel, noon).Data
		}, "URIs"},
		"one certificate more": {func(s *corev1.Secret) {
			s.Data["cert-chain.pem"] = append(s.Data["cert-chain.pem"], other.Bundle()...)
		}, "is not between"},
		"comment before the certificate": {func(s *corev1.Secret) {
			s.Data["cert-chain.pem"] = append([]byte("mine\n"), s.Data["cert-chain.pem"]...)
		}, "something else than certificates"},
		"white space before the certificate": {func(s *corev1.Secret) {
			s.Data["cert-chain.pem"] = append([]byte("\n"), s.Data["cert-chain.pem"]...)
		}, "more than its certificates"},
		"no owner":                 {func(s *corev1.Secret) { s.OwnerReferences = nil }, "not owned"},
		"owner of another kind":    {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "Pod" }, "not owned"},
		"owner of another name":    {func(s *corev1.Secret) { s.OwnerReferences[0].Name = "httpbin" }, "not owned"},
		"owner of an earlier life": {func(s *corev1.Secret) { s.OwnerReferences[0].UID = "old" }, "not owned"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSecret(t, a, sleep, noon)
			if _, err := a.CheckSecret(sleep, s, noon); err != nil {
				t.Fatalf("before: %v", err)
			}
			c.spoil(s)
			_, err := a.CheckSecret(sleep, s, noon)
			wantError(t, err, c.want)
		})
	}
}

// While a leader of the CA before leads, a replica of the next one serves what it made,
// and the other way round, if its roots are enough.
func TestCheckServing(t *testing.T) {
	own := first(NewRoot(RootOptions{}, noon))
	below := intermediate(t, own, nil, noon)
	root := corporate(t, "root")
	roots, err := parseCertificates(own.Data[mesh.RootKey])
	if err != nil {
		t.Fatal(err)
	}
	both := append(roots, root.cert)
	trusting := own.DeepCopy()
	trusting.Data[mesh.RootKey] = encodeCertificates(both)
	start := func(m Material) *Authority {
		t.Helper()
		a, err := Start(m, Options{}, noon)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	self := start(Material{Root: trusting, Intermediate: below})
	plugged := start(plug(files(t, root.below(t, "signer", nil), nil, both)))
	server := mesh.ServiceAccount{Namespace: "istio-system", Name: mesh.ServerAccount(mesh.CitadelService), UID: "1"}
	for name, c := range map[string]struct {
		leader, replica *Authority
		account         mesh.ServiceAccount
		after           time.Duration
		wrong           string
	}{
		"plugged in":            {leader: self, replica: plugged, account: server},
		"and back":              {leader: plugged, replica: self, account: server},
		"of a root not in use":  {leader: plugged, replica: start(Material{Root: own, Intermediate: below}), account: server, wrong: "unknown authority"},
		"of another account":    {leader: self, replica: plugged, account: mesh.ServiceAccount{Namespace: "shop", Name: "cart"}, wrong: "want only"},
		"after its certificate": {leader: self, replica: plugged, account: server, after: DefaultSecretTTL + time.Hour, wrong: "expired"},
	} {
		secret := first(c.leader.NewSecret(c.account, noon))
		if _, err := c.replica.CheckSecret(c.account, secret, noon); err == nil {
			t.Errorf("%s: kept as well", name)
		}
		err := c.replica.CheckServing(server, secret, noon.Add(c.after))
		switch {
		case c.wrong != "":
			wantError(t, err, c.wrong)
		case err != nil:
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A Secret past its time is still good; one past its end is not.
func TestCheckSecretWithTime(t *testing.T) {
	a, _ := open(t, noon, Options{})
	s := newSecret(t, a, sleep, noon)
	for days, good := range map[int]bool{0: true, 40: true, 89: true, 91: false} {
		now := noon.Add(time.Duration(days) * 24 * time.Hour)
		renew, err := a.CheckSecret(sleep, s, now)
		if (err == nil) != good {
			t.Errorf("after %d days: %v", days, err)
		}
		if past := !renew.After(now); good && past != (days > 50) {
			t.Errorf("after %d days: to be renewed at %v", days, renew)
		}
	}
}

func TestCheckSecretBelievesNoAnnotation(t *testing.T) {
	a, _ := open(t, noon, Options{})
	s := newSecret(t, a, sleep, noon)
	s.Annotations[mesh.ServiceAccountAnnotation] = "httpbin"
	if _, err := a.CheckSecret(sleep, s, noon); err != nil {
		t.Errorf("%v: the annotation is for people", err)
	}
}

// Renewal is at half-life, spread by a tenth of it to both sides, and always at
// the same moment for one account. Lifetimes of years must not overflow.
func TestRenewal(t *testing.T) {
	a, _ := open(t, noon, Options{SecretTTL: 4 * 365 * 24 * time.Hour})
	life := 4*365*24*time.Hour + 2*time.Minute
	var shares []float64
	for n := range 200 {
		account := sleep
		account.UID = string(rune('a'+n%26)) + string(rune('a'+n/26))
		s := newSecret(t, a, account, noon)
		renew, err := a.CheckSecret(account, s, noon)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := a.CheckSecret(account, s, noon.Add(time.Hour)); !again.Equal(renew) {
			t.Fatalf("renewal moved from %v to %v", renew, again)
		}
		shares = append(shares, renew.Sub(noon.Add(-2*time.Minute)).Hours()/life.Hours())
	}
	first, last := slices.Min(shares), slices.Max(shares)
	if first < 0.45 || last > 0.55 || last-first < 0.05 {
		t.Errorf("renewed after %.3f to %.3f of the lifetime, want spread over 0.45 to 0.55", first, last)
	}
}

// The shortest lifetime that may be set must leave time between making a Secret
// and renewing it.
func TestRenewalOfBriefSecrets(t *testing.T) {
	a, _ := open(t, noon, Options{SecretTTL: time.Minute})
	now := noon.Add(time.Hour)
	renew, err := a.CheckSecret(sleep, newSecret(t, a, sleep, now), now)
	if err != nil || !renew.After(now.Add(25*time.Second)) || !renew.Before(now.Add(35*time.Second)) {
		t.Errorf("made at %v, to be renewed at %v, %v; want half a minute later", now, renew, err)
	}
}

// Where nobody says otherwise, ten minutes are left for renewing even a short life.
func TestLeastGracePeriodByDefault(t *testing.T) {
	a, _ := open(t, noon, Options{SecretTTL: 30 * time.Minute, SecretGrace: 0.1})
	renew, err := a.CheckSecret(sleep, newSecret(t, a, sleep, noon), noon)
	if least := noon.Add(30*time.Minute - DefaultSecretMinGrace*11/10); err != nil || renew.Before(least) || renew.After(least.Add(2*time.Minute)) {
		t.Errorf("renewed at %v, %v; want about twenty minutes after %v", renew, err, noon)
	}
}

// Keys for old readers are RSA in PKCS#1, and pass the same check.
func TestSecretsWithRSAKeys(t *testing.T) {
	a, _ := open(t, noon, Options{SecretKey: RSA2048})
	s := newSecret(t, a, sleep, noon)
	block, _ := pem.Decode(s.Data["key.pem"])
	if block == nil || block.Type != "RSA PRIVATE KEY" {
		t.Fatalf("key.pem holds %v", block)
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil || key.N.BitLen() != 2048 {
		t.Errorf("%v, %v", key, err)
	}
	if _, err := a.CheckSecret(sleep, s, noon); err != nil {
		t.Error(err)
	}
}

// The grace period is a share of the life, at least a fixed time, and never so long that
// a Secret is due when it is made, not even where lives are longer than int64 has room
// for when they are multiplied.
func TestGracePeriod(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for _, c := range []struct {
		ttl, least time.Duration
		ratio      float64
		want       time.Duration // that is left, give or take a tenth
	}{
		{90 * day, 10 * time.Minute, 0.5, 45 * day},
		{90 * day, 10 * time.Minute, 0.2, 18 * day},
		{90 * day, 10 * time.Minute, 0.9, 81 * day},
		{365 * day, 10 * time.Minute, 0.5, 365 * day / 2}, // overflowed in Istio's
		{8 * year, 10 * time.Minute, 0.8, 8 * year * 8 / 10},
		{30 * time.Minute, 10 * time.Minute, 0.1, 10 * time.Minute},
		{time.Minute, 10 * time.Minute, 0.1, 30 * time.Second},
	} {
		a, _ := open(t, noon, Options{SecretTTL: c.ttl, SecretGrace: c.ratio, SecretMinGrace: c.least})
		s := newSecret(t, a, sleep, noon)
		renew, err := a.CheckSecret(sleep, s, noon)
		if err != nil {
			t.Fatal(err)
		}
		left := noon.Add(c.ttl).Sub(renew)
		if !renew.After(noon) || left < c.want*9/10 || left > c.want*11/10 {
			t.Errorf("%v with %v of it or %v: %v left, want about %v", c.ttl, c.ratio, c.least, left, c.want)
		}
	}
	for _, ratio := range []float64{0.09, 0.91, -1} {
		if err := (Options{SecretGrace: ratio}).Validate(); err == nil {
			t.Errorf("ratio %v: accepted", ratio)
		}
	}
	if err := (Options{SecretMinGrace: -1}).Validate(); err == nil {
		t.Error("grace of less than nothing: accepted")
	}
}

// Another chain below the same roots is another basis, and the roots in it are those that
// the annotation of a Secret names.
func TestBasis(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	a, err := Start(Material{Root: root, Intermediate: intermediate(t, root, nil, noon)}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	before := a.Basis(sleep)
	if again := a.Basis(sleep); before != again || before.Roots != newSecret(t, a, sleep, noon).Annotations[mesh.SecretRoots] {
		t.Errorf("%+v, then %+v", before, again)
	}
	if changed, err := a.Replace(Material{Root: root, Intermediate: intermediate(t, root, nil, noon)}, noon); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if after := a.Basis(sleep); after.Chain == before.Chain || after.Roots != before.Roots {
		t.Errorf("%+v, then %+v", before, after)
	}
}
