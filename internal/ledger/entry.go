package ledger

import (
	"strings"
	"time"
	"unicode/utf8"
)

// Entry is one certificate that was made, or one request that was refused, or Count of
// them. What is not known is empty, and so is what does not apply.
type Entry struct {
	Time     time.Time `json:"time"` // zero: now
	Event    string    `json:"event"`
	ID       string    `json:"id,omitempty"` // SPIFFE ID
	DNS      []string  `json:"dns,omitempty"`
	Serial   string    `json:"serial,omitempty"` // hexadecimal
	Leaf     string    `json:"leaf,omitempty"`   // SHA-256 of the certificate, hexadecimal
	Key      string    `json:"spki,omitempty"`   // SHA-256 of its public key, hexadecimal
	Issuer   string    `json:"issuer,omitempty"` // SHA-256 of the signing certificate, hexadecimal
	NotAfter time.Time `json:"notAfter,omitzero"`
	How      string    `json:"how,omitempty"`     // what proved the caller
	Pod      string    `json:"pod,omitempty"`     // UID
	Node     string    `json:"node,omitempty"`    // of a node proxy that asked for another
	Peer     string    `json:"peer,omitempty"`    // address
	Request  string    `json:"request,omitempty"` // the correlation id that the client sees
	Policy   string    `json:"policy,omitempty"`  // name and hash of what allowed it

	// Of a refusal: the gRPC code, the stable name of the rule, and words.
	Code   string `json:"code,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Count is how many refusals a line stands for that have none of their own; 0: it is of one.
	Count int `json:"count,omitempty"`
}

// Longest text and list of names that an entry keeps, in bytes and names. A line must
// not grow with what a stranger sends.
const (
	maxText  = 2048
	maxNames = 256
)

// kept returns the entry as it goes into the log.
func (e Entry) kept(now time.Time) Entry {
	if e.Time.IsZero() {
		e.Time = now
	}
	for _, text := range []*string{
		&e.Event, &e.ID, &e.Serial, &e.Leaf, &e.Key, &e.Issuer, &e.How, &e.Pod, &e.Node, &e.Peer, &e.Request, &e.Policy,
		&e.Code, &e.Rule, &e.Reason,
	} {
		*text = keptText(*text)
	}
	if len(e.DNS) > 0 {
		names := make([]string, min(len(e.DNS), maxNames))
		for i := range names {
			names[i] = keptText(e.DNS[i])
		}
		e.DNS = names
	}
	return e
}

// keptText leaves out what is too long, and all of a text in which a JSON Web Token or
// a private key may stand: an error of somebody's parser that quotes its input must not
// put it on record.
func keptText(s string) string {
	if len(s) < len(tokenStart) {
		return s
	}
	if strings.Contains(s, tokenStart) || strings.Contains(s, "PRIVATE KEY") {
		return "(left out: may hold a key or a token)"
	}
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for end > maxText-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}

// tokenStart is `{"` in base64, which a JSON Web Token begins with.
const tokenStart = "eyJ"
