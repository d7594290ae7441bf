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

// firstWarning is how long before its end a certificate is spoken of at the earliest.
const firstWarning = 30 * day

const day = 24 * time.Hour

// Warning is what people who look at a Secret of the CA should see there.
type Warning struct {
	Secret  string // its name
	ID      string // the same for the same warning and for no other; fit for an object's name
	Reason  string
	Message string
}

// Overdue returns from when on a certificate of a CA should have been renewed long ago:
// when half of the time is over that was left when it was due, and at most 30 days are left. Due
// it is with a third of its life left: ours are renewed then, and so are others, usually.
func (c CertificateInfo) Overdue() time.Time {
	return c.NotAfter.Add(-min(firstWarning, c.NotAfter.Sub(c.NotBefore)/6))
}

// Warnings are those that hold at a time: of each certificate of chain and bundle that
// is overdue, and 30, 7 or 1 days before its end, the latest, and of an intermediate that
// cannot be renewed because the root's key is offline. Where a certificate is overdue later than
// 30 days before its end, the others come later in proportion. Nothing is said of
// certificates that signed before, which may end.
func (s Status) Warnings(now time.Time) (warnings []Warning) {
	told := map[string]bool{}
	// From the roots on: one that signs itself is a root first.
	for n := len(s.Certificates) - 1; n >= 0 && len(warnings) < maxSeries; n-- {
		c := s.Certificates[n]
		days, within := c.step(now)
		if days == 0 || c.Role == EarlierRole || told[c.Fingerprint] {
			continue
		}
		told[c.Fingerprint] = true
		warnings = append(warnings, Warning{
			Secret: s.secretOf(c), ID: fmt.Sprintf("certificate-ends.%s.%dd", c.Fingerprint[:16], days), Reason: CertificateEnds,
			Message: fmt.Sprintf("%s %.200s (SHA-256 %s...) ends at %s, in less than %s: %s", c.Role, c.Subject, c.Fingerprint[:16],
				c.NotAfter.UTC().Format(time.RFC3339), inWords(within), s.remedy(c)),
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

// step returns which warning is the latest, that of 30, 7 or 1 days, and within how much of
// the end it holds; 0 where there is none or nothing is left.
func (c CertificateInfo) step(now time.Time) (days int, within time.Duration) {
	left, first := c.NotAfter.Sub(now), c.NotAfter.Sub(c.Overdue())
	for _, days := range []int{1, 7, 30} {
		if within := first / 30 * time.Duration(days); left > 0 && left <= within {
			return days, within
		}
	}
	return 0, 0
}

// inWords writes a duration in the largest unit of which it has more than one, rounded up.
func inWords(d time.Duration) string {
	for _, unit := range []struct {
		name   string
		length time.Duration
	}{{"days", day}, {"hours", time.Hour}, {"minutes", time.Minute}} {
		if n := (d + unit.length - 1) / unit.length; n > 1 {
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	return "a minute"
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
