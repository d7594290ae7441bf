package ledger

import (
	"fmt"
	"time"
)

// Kind is what is wrong with a log, in a word that stays.
type Kind string

// Kinds of breaks.
const (
	Changed   Kind = "changed"   // a line is not what was written
	Missing   Kind = "missing"   // lines are not there
	Reordered Kind = "reordered" // lines are there, but elsewhere
	Repeated  Kind = "repeated"  // a line is there again
	Torn      Kind = "torn"      // the last line is not whole
	Truncated Kind = "truncated" // it ends before a checkpoint that was published
	Remade    Kind = "remade"    // it is another log than the one that a checkpoint was published of
	Signature Kind = "signature" // a checkpoint is not signed by its key
	OtherKey  Kind = "key"       // checkpoints are signed by another key than the one to be trusted
	Unknown   Kind = "unknown"   // no checkpoint of this replica was published
)

// Position is where something is.
type Position struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line"` // from 1
}

// Break is where a log is not what was written, and how.
type Break struct {
	Position      // of the line that shows it; Line is 0 where it is one that is not there
	Kind     Kind `json:"kind"`
	// Seq is the record's that shows it, 0 where that cannot be read.
	Seq uint64 `json:"seq,omitempty"`
	Why string `json:"why"`

	order int // of the line, over all files
}

func (b *Break) Error() string {
	where := b.File
	if b.Line > 0 {
		where = fmt.Sprintf("%s:%d", b.File, b.Line)
	}
	return fmt.Sprintf("%s: %s: %s", where, b.Kind, b.Why)
}

// Chain is what was found of one chain, up to the first break in it.
type Chain struct {
	Replica   string    `json:"replica,omitempty"` // "" where no line says so
	Runs      []string  `json:"runs"`
	First     uint64    `json:"first"` // number of the first record that is here
	Last      uint64    `json:"last"`
	Head      Hash      `json:"head"` // hash of record Last
	Begun     time.Time `json:"begun"`
	Ended     time.Time `json:"ended"`
	Issued    int       `json:"issued"`
	Refused   int       `json:"refused"`
	PublicKey []byte    `json:"publicKey,omitempty"` // of its checkpoints
	// Signed is the last record that a checkpoint vouches for whose signature is right: one
	// in the log, or a published one.
	Signed uint64 `json:"signed"`
	// Published is the last record that a published checkpoint was found to be right about.
	Published uint64 `json:"published,omitempty"`
	// Unchecked are checkpoints in the log whose key is not known here.
	Unchecked int `json:"unchecked,omitempty"`

	broken   *Break // nil: it is not
	from, to uint64 // the records that are missing there, to excluded
	order    int    // of the line of Last
}

// Report is what became of a verification.
type Report struct {
	Chains []Chain `json:"chains"`
	Breaks []Break `json:"breaks"` // in the order of the lines; those of what is not there come last
}
