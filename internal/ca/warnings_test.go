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
	const day = 24 * time.Hour
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
			"istio-ca-secret CertificateEnds certificate-ends.rrrrrrrrrrrrrrrr.1d in less than a day"}},
		"root that ended":                    {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(RootRole, 0)), nil},
		"earlier ones may end":               {selfSigned(RootKeyOnline, day, of(SignerRole, far), of(EarlierRole, day), of(RootRole, far)), nil},
		"short intermediate that is not due": {selfSigned(RootKeyOnline, day, of(SignerRole, 3*day), of(RootRole, far)), nil},
		"just due":                           {selfSigned(RootKeyOnline, -time.Hour, of(SignerRole, 3*day), of(RootRole, far)), nil},
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
