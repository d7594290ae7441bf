package cluster

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
)

// CheckBundle reports why an API server that holds caBundle would not trust a
// webhook at host that presents chain, PEM with the leaf first, at this time. With
// the zero time it does not matter whether the leaf is valid yet or still.
func CheckBundle(caBundle, chain []byte, host string, now time.Time) error {
	var leaf *x509.Certificate
	issuers, anchors := x509.NewCertPool(), x509.NewCertPool()
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return fmt.Errorf("certificate chain: %w", err)
		case leaf == nil:
			leaf = cert
		default:
			issuers.AddCert(cert)
		}
	}
	if leaf == nil {
		return errors.New("certificate chain: no certificate")
	}
	if !anchors.AppendCertsFromPEM(caBundle) {
		return errors.New("CA bundle: no certificate")
	}
	if now.IsZero() {
		now = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: anchors, Intermediates: issuers, CurrentTime: now})
	return err
}

// held is what the API server holds for our entries of one webhook object.
type held struct {
	entries    int
	differing  []string // names of those whose caBundle holds other certificates than wanted
	untrusting []string // names of those by whose caBundle what is served is not trusted
	why        error    // of the first of untrusting
	notAfter   time.Time
}

// look compares what the API server holds with the certificates that it should
// hold and with the chain that is served; each is left out where it is empty.
func look(webhook *admissionv1.MutatingWebhookConfiguration, suffix string, want [][]byte, served []byte, now time.Time) held {
	var h held
	for _, entry := range webhook.Webhooks {
		if !strings.HasSuffix(entry.Name, suffix) {
			continue
		}
		h.entries++
		have, err := parseBundle(entry.ClientConfig.CABundle)
		if len(want) > 0 && (err != nil || !slices.EqualFunc(have, want, bytes.Equal)) {
			h.differing = append(h.differing, entry.Name)
		}
		for _, der := range have {
			if cert, err := x509.ParseCertificate(der); err == nil && (h.notAfter.IsZero() || cert.NotAfter.Before(h.notAfter)) {
				h.notAfter = cert.NotAfter
			}
		}
		if len(served) == 0 {
			continue
		}
		if err := CheckBundle(entry.ClientConfig.CABundle, served, hostOf(entry.ClientConfig), now); err != nil {
			h.untrusting = append(h.untrusting, entry.Name)
			h.why = cmp.Or(h.why, err)
		}
	}
	return h
}

// hostOf returns the name that the API server wants the webhook's certificate to
// have.
func hostOf(c admissionv1.WebhookClientConfig) string {
	if c.Service != nil {
		return c.Service.Name + "." + c.Service.Namespace + ".svc"
	}
	if c.URL != nil {
		if u, err := url.Parse(*c.URL); err == nil {
			return u.Hostname()
		}
	}
	return ""
}

// parseBundle returns the certificates of a PEM bundle in DER, sorted, each once:
// two bundles with equal certificates make the API server trust the same.
func parseBundle(bundle []byte) ([][]byte, error) {
	var certificates [][]byte
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, errors.New("not PEM throughout")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block of type %q, want CERTIFICATE", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, err
		}
		certificates = append(certificates, block.Bytes)
	}
	if len(certificates) == 0 {
		return nil, errors.New("no certificate")
	}
	slices.SortFunc(certificates, bytes.Compare)
	return slices.CompactFunc(certificates, bytes.Equal), nil
}
