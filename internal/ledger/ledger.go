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
)

// Events of entries, and of what the log itself has to say.
const (
	Issued  = "issued"
	Refused = "refused"

	opened     = "opened"     // the first line of each run, and of each file
	resumed    = "resumed"    // lines could not be written for a while
	checkpoint = "checkpoint" // signs the line before it
)

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
