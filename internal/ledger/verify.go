package ledger

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// VerifyOptions are what a log is held to. Zero values mean defaults.
type VerifyOptions struct {
	// Keys are the only ones that may sign checkpoints, SubjectPublicKeyInfo in DER. None:
	// those of the published checkpoints; without these, the first that the log names.
	Keys [][]byte
	// Published are checkpoints from outside. Each replica in the log must have one here, and be
	// as it says. Those of other replicas play no part.
	Published []Checkpoint
	// Partial accepts chains whose beginning is not there.
	Partial bool
	// See is called for each record that fits its own hash, wherever it stands.
	See func(Record, Position)
}

// maxBreaks bounds what a report tells of a file that is no log at all.
const maxBreaks = 1000

// Verifier reads logs, line by line, and holds them to what they were when they were
// written. Records of more than one chain may be mixed, and so may lines of other text.
type Verifier struct {
	o      VerifyOptions
	keys   [][]byte
	pinned bool              // keys are from outside
	runs   map[string]*Chain // by run
	chains []*Chain
	loose  []fragment // the last lines that are no records
	torn   []fragment // those that seem to have been, and that no record has spoken of yet
	breaks []*Break

	at      Position
	order   int
	unended bool // the last line lacks its end
	end     int  // order of the last record
}

// fragment is a line that is no record.
type fragment struct {
	Position
	order int
	hash  Hash
	err   error // why it is none, where it seems to have been one
}

// NewVerifier returns one that has read nothing. The error is of a key or checkpoint in
// the options that is none.
func NewVerifier(o VerifyOptions) (*Verifier, error) {
	v := &Verifier{o: o, keys: slices.Clone(o.Keys), pinned: len(o.Keys) > 0 || len(o.Published) > 0, runs: map[string]*Chain{}}
	for _, c := range o.Published {
		if err := c.check(c.PublicKey); err != nil {
			return nil, fmt.Errorf("published checkpoint of replica %q: %w", c.Replica, err)
		}
		switch {
		case v.trusts(c.PublicKey):
		case len(o.Keys) > 0:
			return nil, fmt.Errorf("published checkpoint of replica %q: signed by another key than the one to be trusted", c.Replica)
		default:
			v.keys = append(v.keys, c.PublicKey)
		}
	}
	return v, nil
}

func (v *Verifier) trusts(key []byte) bool {
	return slices.ContainsFunc(v.keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

func (v *Verifier) readFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return v.Read(name, f)
}

// Read reads one file, or whatever name calls it, to its end. A log of several files is
// read in their order. The error is r's; what is wrong with the log, [Verifier.Report]
// says.
func (v *Verifier) Read(name string, r io.Reader) error {
	lines := newLineReader(r)
	for {
		l, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		v.order++
		v.at = Position{name, l.number}
		if l.other {
			continue
		}
		v.unended = !l.ended
		v.line(l.text)
	}
}

func (v *Verifier) line(text []byte) {
	if !isRecord(text) {
		v.keep(fragment{v.at, v.order, sha256.Sum256(text), nil})
		return
	}
	r, err := parseRecord(text)
	if err != nil {
		f := fragment{v.at, v.order, sha256.Sum256(text), err}
		if len(v.torn) < maxBreaks {
			v.torn = append(v.torn, f)
		}
		v.keep(f)
		return
	}
	v.end = v.order
	if v.o.See != nil {
		v.o.See(r, v.at)
	}
	v.record(r)
}

// maxLoose is how many lines of other text are remembered: a broken line may be too
// short to be told from them, until a record says that it was one.
const maxLoose = 64

func (v *Verifier) keep(f fragment) {
	if len(v.loose) == maxLoose {
		v.loose = slices.Delete(v.loose, 0, 1)
	}
	v.loose = append(v.loose, f)
}

// record puts a record into its chain.
func (v *Verifier) record(r Record) {
	c := v.chainOf(r)
	if c.broken != nil {
		if c.from <= r.Seq && r.Seq < c.to { // it is here, after all
			c.broken.Kind = Reordered
			c.broken.Why = fmt.Sprintf("of records %d to %d, which come before it, some come after it", c.from, c.to-1)
		}
		return
	}
	if c.Last > 0 && !v.follows(c, r) {
		return
	}
	v.account(c, r)
	if c.First == 0 {
		c.First, c.Begun = r.Seq, r.Time
	}
	c.Last, c.Head, c.Ended, c.order = r.Seq, r.Hash, r.Time, v.order
	switch r.Event {
	case opened:
		v.opening(c, r)
	case checkpoint:
		v.checkpoint(c, r)
	case Issued:
		c.Issued++
	case Refused:
		c.Refused += max(r.Count, 1)
	}
	v.compare(c, r)
}

// account finds the broken lines that a record speaks of: between it and the one before
// it in its chain, in that order.
func (v *Verifier) account(c *Chain, r Record) {
	after := c.order
	for _, h := range r.Torn {
		is := func(f fragment) bool { return f.hash == h && f.order > after }
		if i := slices.IndexFunc(v.torn, is); i >= 0 {
			after = v.torn[i].order
			v.torn = slices.Delete(v.torn, i, i+1)
		} else if i := slices.IndexFunc(v.loose, is); i >= 0 {
			after = v.loose[i].order
		} else {
			v.broken(c, Missing, r.Seq, "a broken line that it speaks of is not before it, or was changed since")
			return
		}
	}
}

// chainOf returns the chain that a record is part of, a new one where it begins one.
func (v *Verifier) chainOf(r Record) *Chain {
	if c := v.runs[r.Run]; c != nil {
		return c
	}
	if r.Event == opened && r.Seq > 1 {
		for _, c := range v.chains {
			if c.broken == nil && c.Head == r.Prev && c.Last == r.Seq-1 {
				v.runs[r.Run] = c
				c.Runs = append(c.Runs, r.Run)
				return c
			}
		}
	}
	c := &Chain{Runs: []string{r.Run}}
	v.runs[r.Run] = c
	v.chains = append(v.chains, c)
	switch {
	case r.Seq == 1 && r.Prev == Hash{} && r.Event == opened, v.o.Partial && r.Seq > 1:
	case r.Seq > 1:
		v.broken(c, Missing, r.Seq, fmt.Sprintf("it begins with record %d; those before are not here", r.Seq))
		c.from, c.to = 1, r.Seq
	default:
		v.broken(c, Changed, r.Seq, "a chain begins with an opening record, and this is none")
	}
	return c
}

// follows reports whether a record comes next in the chain, and says why not.
func (v *Verifier) follows(c *Chain, r Record) bool {
	next := c.Last + 1
	run := c.Runs[len(c.Runs)-1]
	switch {
	case r.Seq == next && r.Prev == c.Head && r.Run == run:
		return true
	case r.Seq == next:
		v.broken(c, Changed, r.Seq, "it does not follow from the record before it")
	case r.Seq > next:
		v.broken(c, Missing, r.Seq, fmt.Sprintf("records %d to %d are not here", next, r.Seq-1))
		c.from, c.to = next, r.Seq
	default:
		v.broken(c, Repeated, r.Seq, fmt.Sprintf("it comes after record %d", c.Last))
	}
	return false
}

func (v *Verifier) opening(c *Chain, r Record) {
	c.Replica = r.Replica
	switch {
	case len(v.keys) == 0 && !v.pinned:
		v.keys = append(v.keys, r.PublicKey)
	case !v.trusts(r.PublicKey):
		v.broken(c, OtherKey, r.Seq, "its checkpoints are signed by another key than the one to be trusted")
	}
	c.PublicKey = r.PublicKey
}

// checkpoint checks one that stands in the log, about the record before it.
func (v *Verifier) checkpoint(c *Chain, r Record) {
	if c.Replica == "" {
		c.Replica = r.Replica
	}
	said := Checkpoint{Replica: r.Replica, Run: r.Run, Seq: r.Seq - 1, Head: r.Prev, Time: r.Time, Signature: r.Signature}
	keys := v.keys
	if c.PublicKey != nil {
		keys = [][]byte{c.PublicKey}
	}
	switch {
	case slices.ContainsFunc(keys, func(key []byte) bool { return said.check(key) == nil }):
		c.Signed = said.Seq
	case len(keys) == 0:
		c.Unchecked++
	default:
		v.broken(c, Signature, r.Seq, "the checkpoint is not signed by the log's key")
	}
}

// compare holds a record to the published checkpoint that is about it.
func (v *Verifier) compare(c *Chain, r Record) {
	for _, p := range v.o.Published {
		switch {
		case p.Run != r.Run || p.Seq != r.Seq:
		case p.Head != r.Hash:
			v.broken(c, Remade, r.Seq, fmt.Sprintf("a checkpoint of %s says that this record was another", p.Time.Format(timeFormat)))
		default:
			c.Published, c.Signed = r.Seq, max(c.Signed, r.Seq)
		}
	}
}

const timeFormat = "2006-01-02T15:04:05Z07:00"

// broken notes what is wrong at the present line. A chain is not looked at further: all
// that follows would be wrong for the same reason.
func (v *Verifier) broken(c *Chain, kind Kind, seq uint64, why string) {
	c.broken = &Break{Position: v.at, Kind: kind, Seq: seq, Why: why, order: v.order}
	if len(v.breaks) < maxBreaks {
		v.breaks = append(v.breaks, c.broken)
	}
}

// atEnd reports whether a break is of a line that no record comes after.
func (v *Verifier) atEnd(b Break) bool { return b.order > v.end }

// Report says what was found so far.
func (v *Verifier) Report() Report {
	r := Report{Chains: []Chain{}, Breaks: []Break{}}
	for _, b := range v.breaks {
		r.Breaks = append(r.Breaks, *b)
	}
	for i, f := range v.torn {
		b := Break{Position: f.Position, Kind: Changed, Why: "the line " + f.err.Error(), order: f.order}
		if i == len(v.torn)-1 && f.order == v.order && v.unended {
			b.Kind, b.Why = Torn, "the last line is not whole"
		}
		r.Breaks = append(r.Breaks, b)
	}
	slices.SortStableFunc(r.Breaks, func(a, b Break) int { return cmp.Compare(a.order, b.order) })
	r.Breaks = append(r.Breaks, v.unmet()...)
	for _, c := range v.chains {
		r.Chains = append(r.Chains, *c)
	}
	return r
}

// unmet holds the chains to the published checkpoints as wholes.
func (v *Verifier) unmet() (breaks []Break) {
	if len(v.o.Published) == 0 {
		return nil
	}
	add := func(kind Kind, why string) {
		breaks = append(breaks, Break{Position: Position{File: v.at.File}, Kind: kind, Why: why})
	}
	if len(v.chains) == 0 {
		add(Truncated, "no record is here, and checkpoints of some were published")
	}
	for _, p := range v.o.Published {
		c := v.runs[p.Run]
		at := p.Time.Format(timeFormat)
		switch {
		case c == nil && slices.ContainsFunc(v.chains, func(c *Chain) bool { return c.Replica == p.Replica }):
			add(Truncated, fmt.Sprintf("replica %s: nothing is here of run %s, of which there were %d records at %s", p.Replica, p.Run, p.Seq, at))
		case c == nil || c.broken != nil:
		case c.Last < p.Seq:
			add(Truncated, fmt.Sprintf("replica %s: it ends with record %d; at %s there were %d", p.Replica, c.Last, at, p.Seq))
		}
	}
	for _, c := range v.chains {
		isOf := func(p Checkpoint) bool { return p.Replica == c.Replica || v.runs[p.Run] == c }
		if c.broken == nil && !slices.ContainsFunc(v.o.Published, isOf) {
			add(Unknown, fmt.Sprintf("replica %q, run %s: no checkpoint of it was published", c.Replica, c.Runs[0]))
		}
	}
	return breaks
}
