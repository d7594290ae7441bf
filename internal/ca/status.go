package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Where the root key is, in [Status].
const (
	RootKeyOnline    = "online"    // in istio-ca-secret
	RootKeyOffline   = "offline"   // taken out of it
	RootKeyElsewhere = "elsewhere" // of a plugged-in CA: with its owner
)

// Roles of certificates in [Status].
const (
	SignerRole       = "signer"
	IntermediateRole = "intermediate" // between the signer and a root
	RootRole         = "root"
	EarlierRole      = "earlier" // signed before; its leaves are still good
)

// Status is what an authority signs with, for people and metrics.
type Status struct {
	Source       string            `json:"source"`            // self-signed or plugged
	From         string            `json:"from"`              // where it was found
	RootKey      string            `json:"rootKey"`           // online, offline or elsewhere
	Renewal      time.Time         `json:"renewal,omitzero"`  // when our own intermediate is due
	Ends         time.Time         `json:"ends"`              // when the first of signer, chain and root ends
	Refused      string            `json:"refused,omitempty"` // why what was found last is not in use
	Certificates []CertificateInfo `json:"certificates"`      // signer first, roots last
}

// CertificateInfo is one certificate of a chain or bundle.
type CertificateInfo struct {
	Role        string    `json:"role"`
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the DER, hex
	Key         string    `json:"key"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
}

// Status describes what signs now.
func (a *Authority) Status() Status {
	i := a.current.Load()
	s := Status{Source: mesh.CASelfSigned, From: i.origin.from, RootKey: RootKeyOnline, Ends: i.notAfter}
	switch r := i.origin.root; {
	case i.origin.plugged:
		s.Source, s.RootKey = mesh.CAPlugged, RootKeyElsewhere
	case r != nil && r.key == nil:
		s.RootKey = RootKeyOffline
	}
	if !i.origin.plugged && !i.origin.direct {
		s.Renewal = renewalOf(i.cert)
	}
	if why := a.refused.Load(); why != nil {
		s.Refused = *why
	}
	add := func(role string, certs ...*x509.Certificate) {
		for _, c := range certs {
			s.Certificates = append(s.Certificates, CertificateInfo{
				Role: role, Subject: c.Subject.String(), Fingerprint: fingerprint(c), Key: describeKey(c.PublicKey),
				NotBefore: c.NotBefore, NotAfter: c.NotAfter,
			})
		}
	}
	add(SignerRole, i.cert)
	if len(i.chain) > 0 {
		add(IntermediateRole, i.chain[1:]...)
	}
	add(EarlierRole, i.earlier...)
	add(RootRole, i.roots...)
	return s
}

// Notices are what a human must do, a sentence each, and whether one cannot wait.
// The root key is asked for from half of the intermediate's life on, which by default
// is two months before the renewal that needs it, and half a year before the end.
func (s Status) Notices(now time.Time) (notices []string, urgent bool) {
	if s.Refused != "" {
		notices, urgent = append(notices, "not in use: "+s.Refused), true
	}
	if s.RootKey != RootKeyOffline || s.Renewal.IsZero() {
		return notices, urgent
	}
	signer := s.Certificates[0]
	if half := signer.NotBefore.Add(signer.NotAfter.Sub(signer.NotBefore) / 2); now.Before(half) {
		return append(notices, fmt.Sprintf("root key offline: it is needed again from %s on, to renew the intermediate",
			s.Renewal.Format(time.RFC3339))), urgent
	}
	return append(notices, fmt.Sprintf("root key offline: put it back by %s, for the intermediate to be renewed; everything ends at %s",
		s.Renewal.Format(time.RFC3339), s.Ends.Format(time.RFC3339))), true
}

func fingerprint(c *x509.Certificate) string {
	digest := sha256.Sum256(c.Raw)
	return hex.EncodeToString(digest[:])
}

// maxSeries bounds the series of [certificates]; a bundle may hold any number.
const maxSeries = 32

// certificates tells when each certificate of chain and bundle ends, and whether the
// root key is there to renew them.
type certificates struct {
	authority                                  *Authority
	expiry, overdue, renewal, offline, refused *prometheus.Desc
}

func newCertificates(a *Authority) *certificates {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("citadel_ca_"+name, help, labels, nil)
	}
	return &certificates{
		authority: a,
		expiry: desc("certificate_expiry_timestamp_seconds",
			"When each certificate of the chain and the bundle ends, in seconds since 1970.", "role", "fingerprint"),
		overdue: desc("certificate_overdue_timestamp_seconds",
			"From when on each of them should have been replaced long ago, in seconds since 1970.", "role", "fingerprint"),
		renewal: desc("intermediate_renewal_timestamp_seconds", "When the intermediate is due for renewal, which needs the root key."),
		offline: desc("root_key_offline", "1 while the key of the self-signed root is not in its Secret."),
		refused: desc("material_refused", "1 while the CA that was found last is not the one in use; the log says why."),
	}
}

func (c *certificates) Describe(out chan<- *prometheus.Desc) {
	out <- c.expiry
	out <- c.overdue
	out <- c.renewal
	out <- c.offline
	out <- c.refused
}

func (c *certificates) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	is := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	s := c.authority.Status()
	seen := map[[2]string]bool{}
	for _, cert := range s.Certificates {
		labels := [2]string{cert.Role, cert.Fingerprint[:16]}
		if seen[labels] || len(seen) == maxSeries {
			continue // a second series of the same labels would fail the whole scrape
		}
		seen[labels] = true
		gauge(c.expiry, float64(cert.NotAfter.Unix()), labels[0], labels[1])
		gauge(c.overdue, float64(cert.Overdue().Unix()), labels[0], labels[1])
	}
	if !s.Renewal.IsZero() {
		gauge(c.renewal, float64(s.Renewal.Unix()))
	}
	gauge(c.offline, is(s.RootKey == RootKeyOffline))
	gauge(c.refused, is(s.Refused != ""))
}
