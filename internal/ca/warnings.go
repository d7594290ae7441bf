package ca

import (
	"fmt"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Reasons of a [Warning].
const (
	CertificateEnds = "CertificateEnds"
	RootKeyNeeded   = "RootKeyNeeded"
)

// renewalSlack is how long an intermediate may be due and still count as one that is
// being renewed: the leader looks every hour.
const renewalSlack = 2 * time.Hour

// Warning is what people who look at a Secret of the CA should see there.
type Warning struct {
	Secret  string // its name
	ID      string // the same for the same warning and for no other; fit for an object's name
	Reason  string
	Message string
}

// Warnings are those that hold at a time: of each certificate of chain and bundle that
// ends within 30, 7 or 1 days, the latest, and of an intermediate that cannot be renewed
// because the root's key is offline. Nothing is said of an intermediate that is not due
// yet, however short its life is; nor of certificates that signed before, which may end.
func (s Status) Warnings(now time.Time) (warnings []Warning) {
	told := map[string]bool{}
	// From the roots on: one that signs itself is a root first.
	for n := len(s.Certificates) - 1; n >= 0 && len(warnings) < maxSeries; n-- {
		c := s.Certificates[n]
		own := c.Role == SignerRole && !s.Renewal.IsZero()
		days := daysLeft(c.NotAfter.Sub(now))
		if days == 0 || c.Role == EarlierRole || told[c.Fingerprint] || own && now.Before(s.Renewal.Add(renewalSlack)) {
			continue
		}
		told[c.Fingerprint] = true
		warnings = append(warnings, Warning{
			Secret: s.secretOf(c), ID: fmt.Sprintf("certificate-ends.%s.%dd", c.Fingerprint[:16], days), Reason: CertificateEnds,
			Message: fmt.Sprintf("%s %.200s (SHA-256 %s...) ends at %s, in less than %s: %s", c.Role, c.Subject, c.Fingerprint[:16],
				c.NotAfter.UTC().Format(time.RFC3339), plural(days), s.remedy(c)),
		})
	}
	if s.RootKey == RootKeyOffline && !s.Renewal.IsZero() && !now.Before(s.Renewal) {
		signer := s.Certificates[0]
		warnings = append(warnings, Warning{
			Secret: mesh.IntermediateSecret, ID: "root-key-needed." + signer.Fingerprint[:16], Reason: RootKeyNeeded,
			Message: fmt.Sprintf("the intermediate is due since %s and cannot be renewed, because the root key is offline: "+
				"put %s back into Secret %s before %s, when everything that it signed ends",
				s.Renewal.UTC().Format(time.RFC3339), mesh.CAKeyKey, mesh.CASecret, s.Ends.UTC().Format(time.RFC3339)),
		})
	}
	return warnings
}

// daysLeft returns the least of 1, 7 and 30 days that hold what is left, 0 where none
// does or nothing is left.
func daysLeft(left time.Duration) int {
	for _, days := range []int{1, 7, 30} {
		if left > 0 && left <= time.Duration(days)*24*time.Hour {
			return days
		}
	}
	return 0
}

func plural(days int) string {
	if days == 1 {
		return "a day"
	}
	return fmt.Sprintf("%d days", days)
}

// secretOf names the Secret that a certificate is in.
func (s Status) secretOf(c CertificateInfo) string {
	switch {
	case s.Source == mesh.CAPlugged:
		return mesh.PluggedSecret
	case c.Role == RootRole, s.Renewal.IsZero():
		return mesh.CASecret
	}
	return mesh.IntermediateSecret
}

// remedy is what to do about the end of a certificate.
func (s Status) remedy(c CertificateInfo) string {
	switch {
	case s.Source == mesh.CAPlugged && c.Role == RootRole:
		return "append the next root to " + mesh.RootKey + ", and plug in a signer below it when every workload has both"
	case s.Source == mesh.CAPlugged:
		return "plug in a renewed one"
	case c.Role == RootRole, s.Renewal.IsZero():
		return "append the next root to " + mesh.RootKey + " of this Secret, and let it sign when every workload has both"
	case s.RootKey == RootKeyOffline:
		return fmt.Sprintf("put %s back into Secret %s, for it to be renewed", mesh.CAKeyKey, mesh.CASecret)
	}
	return "it should have been renewed long ago, and Citadel's log has why it was not"
}
