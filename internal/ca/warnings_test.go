package ca

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Each certificate is spoken of where it is, with what to do, and by the threshold that
// was passed last.
func TestWarnings(t *testing.T) {
	of := func(role string, left time.Duration) CertificateInfo {
		return CertificateInfo{Role: role, Subject: "CN=" + role, Fingerprint: strings.Repeat(role[:1], 64), NotAfter: noon.Add(left)}
	}
	selfSigned := func(key string, due time.Duration, c ...CertificateInfo) Status {
		return Status{Source: mesh.CASelfSigned, RootKey: key, Renewal: noon.Add(due), Ends: c[0].NotAfter, Certificates: c}
	}
	direct := Status{Source: mesh.CASelfSigned, RootKey: RootKeyOnline, Certificates: []CertificateInfo{
		of(SignerRole, 6*day), {Role: RootRole, Subject: "CN=signer", Fingerprint: strings.Repeat("s", 64), NotAfter: noon.Add(6 * day)},
	}}
	plugged := Status{Source: mesh.CAPlugged, RootKey: RootKeyElsewhere, Certificates: []CertificateInfo{
		of(SignerRole, day), of(IntermediateRole, 30*day), of(EarlierRole, day), of(RootRole, 8*day),
	}}
	far := 300 * day
	brief := func(life, left time.Duration) CertificateInfo { // that lives no longer than that
		c := of(RootRole, left)
		c.NotBefore = c.NotAfter.Add(-life)
		return c
	}
	briefRoot := func(life, left time.Duration) Status {
		return selfSigned(RootKeyOnline, day, of(SignerRole, far), brief(life, left))
	}
	for name, c := range map[string]struct {
		status Status
		want   []string // Secret, reason, ID, and part of the message
	}{
		"all is well":                  {selfSigned(RootKeyOffline, 1, of(SignerRole, far), of(RootRole, far)), nil},
		"root at 30 days and a second": {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(RootRole, 30*day+time.Second)), nil},
		"root at 30 days": {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(RootRole, 30*day)), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.30d append the next root to root-cert.pem of this Secret"}},
		"root at 7 days": {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(RootRole, 7*day)), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.7d in less than 7 days"}},
		"root at the last second": {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(RootRole, time.Second)), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.1d in less than 24 hours"}},
		"root that ended":                   {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(RootRole, 0)), nil},
		"earlier ones may end":              {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(EarlierRole, day), of(RootRole, far)), nil},
		"60 days, and 10 and a second left": {briefRoot(60*day, 10*day+time.Second), nil},
		"60 days, and 10 left": {briefRoot(60*day, 10*day), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.30d in less than 10 days: "}},
		"60 days, and 56 hours and a second left": {briefRoot(60*day, 56*time.Hour+time.Second), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.30d in less than 10 days: "}},
		"60 days, and 56 hours left": {briefRoot(60*day, 56*time.Hour), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.7d in less than 3 days: "}},
		"60 days, and 8 hours left": {briefRoot(60*day, 8*time.Hour), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.1d in less than 8 hours: "}},
		"an hour, and the last seconds": {briefRoot(time.Hour, 20*time.Second), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.1d in less than a minute: "}},
		"180 days are enough": {briefRoot(180*day, 30*day), []string{
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.30d in less than 30 days: "}},
		"not renewed": {selfSigned(RootKeyOnline, -3*time.Hour, of(SignerRole, 3*day), of(RootRole, far)), []string{
			"garrison-ca-intermediate CertificateEnds certificate-ends.ssssssssssssssss.7d Citadel's log has why"}},
		"due without the root key": {selfSigned(RootKeyOffline, 0, of(SignerRole, 100*day), of(RootRole, far)), []string{
			"garrison-ca-intermediate RootKeyNeeded root-key-needed.ssssssssssssssss put ca-key.pem back into Secret istio-ca-secret before"}},
		"about to end without the root key": {selfSigned(RootKeyOffline, -40*day, of(SignerRole, 20*day), of(RootRole, far)), []string{
			"garrison-ca-intermediate CertificateEnds certificate-ends.ssssssssssssssss.30d put ca-key.pem back",
			"garrison-ca-intermediate RootKeyNeeded root-key-needed.ssssssssssssssss because the root key is offline"}},
		"a root that signs itself": {direct, []string{
			"istio-ca-secret CertificateEnds certificate-ends.ssssssssssssssss.7d root CN=signer"}},
		"plugged in": {plugged, []string{
			"cacerts CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.30d append the next root",
			"cacerts CertificateEnds certificate-ends.iiiiiiiiiiiiiiii.30d plug in a renewed one",
			"cacerts CertificateEnds certificate-ends.ssssssssssssssss.1d plug in a renewed one"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.status.Warnings(noon)
			if len(got) != len(c.want) {
				t.Fatalf("%+v, want %q", got, c.want)
			}
			for n, w := range got {
				f := strings.SplitN(c.want[n], " ", 4)
				if w.Secret != f[0] || w.Reason != f[1] || w.ID != f[2] || !strings.Contains(w.Message, f[3]) || len(w.Message) > 1024 {
					t.Errorf("%+v, want %q", w, f)
				}
			}
		})
	}
}

// Where intermediates are renewed when they are due, and not long after, nobody is told
// of one, however briefly they live.
func TestWarningsOfAHealthyCA(t *testing.T) {
	for _, life := range []time.Duration{
		20 * time.Minute, time.Hour, 3 * time.Hour, day, 3 * day, 59 * day, 89 * day, 181 * day, DefaultIntermediateTTL,
	} {
		root := first(NewRoot(RootOptions{}, noon))
		made := first(DesiredIntermediate(root, nil, IntermediateOptions{TTL: life}, noon))
		a, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
		if err != nil {
			t.Fatal(err)
		}
		s := a.Status()
		for _, at := range []time.Time{noon, s.Renewal, s.Renewal.Add(life / 8)} {
			if got := s.Warnings(at); len(got) != 0 {
				t.Errorf("one of %v at %v: %+v", life, at.Sub(noon), got)
			}
		}
		if got := s.Warnings(s.Ends.Add(-life / 8)); len(got) == 0 && life < 181*day {
			t.Errorf("one of %v that was not renewed: nothing with an eighth left", life)
		}
	}
}

// The same for certificates of Secrets, whatever their grace period.
func TestSecretOverdue(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, time.Hour, day, 59 * day, DefaultSecretTTL, 365 * day} {
		for _, grace := range []float64{0.1, 0.5, 0.9} {
			a, _ := open(t, noon, Options{SecretTTL: life, SecretGrace: grace})
			secret, err := a.NewSecret(sleep, noon)
			if err != nil {
				t.Fatal(err)
			}
			leaf := parseLeaf(t, string(secret.Data[mesh.CertChain]))
			overdue := a.SecretOverdue(leaf)
			for n := range 100 {
				account := mesh.ServiceAccount{Namespace: "a", Name: "b", UID: fmt.Sprint(n)}
				if due := a.options.renewal(leaf, account); !due.Add(life / 50).Before(overdue) {
					t.Fatalf("of %v, grace %v: due at %v, overdue at %v", life, grace, due.Sub(noon), overdue.Sub(noon))
				}
			}
			if left := leaf.NotAfter.Sub(overdue); left > 30*day || left < life/25 && left < 30*day {
				t.Errorf("of %v, grace %v: overdue %v before its end", life, grace, left)
			}
		}
	}
}

// From year to year of a CA that nobody looks after, each warning comes in its time.
func TestWarningsOverALife(t *testing.T) {
	root := first(NewRoot(RootOptions{}, noon))
	made := intermediate(t, root, nil, noon)
	root.Data[mesh.CAKeyKey] = []byte{}
	a, err := Start(Material{Root: root, Intermediate: made}, Options{}, noon)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	seen := map[string]bool{}
	for at := noon; at.Before(noon.Add(DefaultIntermediateTTL + 24*time.Hour)); at = at.Add(time.Hour) {
		for _, w := range a.Status().Warnings(at) {
			if !seen[w.ID] {
				got = append(got, fmt.Sprintf("%s, %.0f days before the end", w.Reason, noon.Add(DefaultIntermediateTTL).Sub(at).Hours()/24))
			}
			seen[w.ID] = true
		}
	}
	want := []string{
		"RootKeyNeeded, 122 days before the end", "CertificateEnds, 30 days before the end",
		"CertificateEnds, 7 days before the end", "CertificateEnds, 1 days before the end",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A bundle may hold any number of roots, under subjects of any length.
func TestWarningsAreBounded(t *testing.T) {
	s := Status{Source: mesh.CAPlugged}
	for n := range 10 * maxSeries {
		s.Certificates = append(s.Certificates, CertificateInfo{
			Role: RootRole, Subject: strings.Repeat("é", 5000), Fingerprint: fmt.Sprintf("%064d", n), NotAfter: noon.Add(time.Hour)})
	}
	slices.Reverse(s.Certificates)
	if got := s.Warnings(noon); len(got) != maxSeries || len(got[0].Message) > 1024 {
		t.Errorf("%d warnings, the first of %d bytes", len(got), len(got[0].Message))
	}
}
