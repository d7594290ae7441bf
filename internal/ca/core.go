package ca

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/garrison-mesh/garrison/internal/ledger"
)

// Recorder keeps the record of what was issued and whom nothing was issued to. An
// error means that it did not, and then nothing may be handed out.
type Recorder interface {
	Append(ledger.Entry) error
}

// order is a certificate that may be made: who asked for it was proven, and that it is
// due to them was decided.
type order struct {
	names   names
	request Request
	ttl     time.Duration
	short   bool         // ttl is less than was asked for
	claim   claim        // what it may be revoked by
	entry   ledger.Entry // how it was asked for

	phases *phases // nil: its time is not measured
	began  time.Time
}

// certify is the one way to a certificate, for callers and Secrets alike: nobody who
// is revoked gets one, and nobody gets one that is not in the record.
func (a *Authority) certify(o order, now time.Time) (*issued, error) {
	if err := a.options.Revocations.check(o.claim, now); err != nil {
		return nil, err
	}
	by := a.current.Load()
	cert, err := by.issue(o.names, o.request, now, o.ttl)
	if err != nil {
		return nil, err
	}
	cert.short = cert.short || o.short
	at := o.phases.observe(phaseSign, o.began)
	entry := o.entry
	entry.Time, entry.Event = now, ledger.Issued
	entry.ID, entry.DNS = o.names.id.String(), o.names.dns
	entry.Serial, entry.NotAfter = cert.leaf.SerialNumber.Text(16), cert.leaf.NotAfter
	entry.Leaf, entry.Key, entry.Issuer = digest(cert.leaf.Raw), digest(cert.leaf.RawSubjectPublicKeyInfo), digest(by.cert.Raw)
	if err := a.record(entry); err != nil {
		return nil, err
	}
	o.phases.observe(phaseRecord, at)
	return cert, nil
}

func (a *Authority) record(e ledger.Entry) error {
	if a.options.Recorder == nil {
		return nil
	}
	if err := a.options.Recorder.Append(e); err != nil {
		return breaks(RuleRecord, fmt.Errorf("record: %w", err))
	}
	return nil
}

// policyName names a policy and, by a hash, the settings that it was applied with, so
// that the record tells under which rules a certificate was issued.
func policyName(name string, settings ...any) string {
	text, err := json.Marshal(settings)
	if err != nil {
		return name // settings are plain values: this does not happen
	}
	return name + "@" + digest(text)[:16]
}
