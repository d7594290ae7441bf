// Package ledger is the issuance log: what a replica of Citadel certified and what it
// refused, one JSON line each, in a chain that shows whether a line was changed, taken
// out, put in or moved.
//
// Each line holds the hash of the one before it and a hash of its own, over all of its
// bytes before that. A chain alone can be made again from any point by whoever holds
// the file; therefore checkpoints, signed with a key that is not the CA's, say how long
// it was and how it ended. They stand in the log, and the newest is to be published
// where the holder of the file cannot write.
//
// The package takes and returns plain values and knows nothing of certificates or
// clusters. It holds no keys or tokens: there is no field for them, and text that looks
// like one is left out. Start reading at [Log], which writes, and [Verifier], which
// reads.
package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Events of entries, and of what the log itself has to say.
const (
	Issued  = "issued"
	Refused = "refused"
	Revoked = "revoked"

	opened     = "opened"     // the first line of each run, and of each file
	resumed    = "resumed"    // the first line after some could not be written
	checkpoint = "checkpoint" // signs the line before it
)

// Entry is one certificate that was made, or one request that was refused. What is not
// known is empty, and so is what does not apply.
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
}

// Record is one line of the log: an entry, or what the log says of itself.
type Record struct {
	Seq  uint64 `json:"seq"`  // 1 for the first of a chain
	Prev Hash   `json:"prev"` // Hash of the record before, zero for the first
	Run  string `json:"run"`  // one opening of a log
	Entry
	Replica   string `json:"replica,omitempty"`
	PublicKey []byte `json:"publicKey,omitempty"` // of checkpoints: SubjectPublicKeyInfo in DER
	Signature []byte `json:"signature,omitempty"` // of a checkpoint, over Seq-1 and Prev
	// Torn are hashes of the lines just before this one that were not written whole.
	Torn []Hash `json:"torn,omitempty"`
	Hash Hash   `json:"hash"`
}

// Hash is a SHA-256.
type Hash [sha256.Size]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText returns the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads what MarshalText returns.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fmt.Errorf("hash of %d characters, want %d", len(text), hex.EncodedLen(len(h)))
	}
	_, err := hex.Decode(h[:], text)
	return err
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
