package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"time"
)

// Query says which entries are looked for: those that have all that is not empty here.
type Query struct {
	Event, ID, Serial, Leaf, Pod, Request string

	From, To time.Time // within which they were made, To excluded
}

// Matches reports whether a record is an entry that the query looks for. Records in
// which the log speaks of itself never are.
func (q Query) Matches(r Record) bool {
	switch r.Event {
	case opened, resumed, checkpoint:
		return false
	}
	is := func(want, have string) bool { return want == "" || want == have }
	return is(q.Event, r.Event) && is(q.ID, r.ID) && is(q.Pod, r.Pod) && is(q.Request, r.Request) &&
		is(plainHex(q.Serial), plainHex(r.Serial)) && is(strings.ToLower(q.Leaf), r.Leaf) &&
		(q.From.IsZero() || !r.Time.Before(q.From)) && (q.To.IsZero() || r.Time.Before(q.To))
}

// plainHex spells a number as a log does, however another program prints it.
func plainHex(s string) string {
	return strings.TrimLeft(strings.ToLower(strings.ReplaceAll(s, ":", "")), "0")
}

// LeafOf returns how the log names a certificate, of which s is the SHA-256 in
// hexadecimal or the PEM, with or without its chain.
func LeafOf(s []byte) (string, error) {
	if block, _ := pem.Decode(s); block != nil {
		if block.Type != "CERTIFICATE" {
			return "", errors.New("PEM block of type " + block.Type + ", want CERTIFICATE")
		}
		return Hash(sha256.Sum256(block.Bytes)).String(), nil
	}
	text := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(string(s)), ":", ""))
	if raw, err := hex.DecodeString(text); err != nil || len(raw) != sha256.Size {
		return "", errors.New("neither a certificate in PEM nor a SHA-256 in hexadecimal")
	}
	return text, nil
}
