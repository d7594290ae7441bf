package ca

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/remote"
)

// How many refusals of a minute are logged and recorded in full. Whoever is refused may
// come back as often as it likes, and must not be able to fill the disk without whose
// record nothing is issued. The others are counted, and each minute their numbers are
// recorded: for those who were refused most apart, for the rest by rule. Callers who prove
// nobody can be anybody, so they have a share that is apart from everybody else's.
const (
	fullMinute = 60 // of all
	fullCaller = 15 // of one caller
	fullRule   = 5  // of one caller by one rule

	countedApart = 20   // lines of numbers
	countedKeys  = 1024 // callers and rules whose numbers are known apart
)

// refusedBy is whom a rule refuses: an identity, or where it is not proven an address.
type refusedBy struct {
	id, source string
	rule       Rule
	code       codes.Code
}

func (b refusedBy) caller() string { return b.id + b.source } // one of them is empty

// share is what there was of one caller by one rule.
type share struct {
	full, more int
}

// refusals are those of a minute. What they take up is bounded, whoever comes.
type refusals struct {
	mu      sync.Mutex
	since   time.Time
	full    int
	callers map[string]int // in full
	by      map[refusedBy]*share
}

func newRefusals(now time.Time) *refusals {
	return &refusals{since: now, callers: map[string]int{}, by: map[refusedBy]*share{}}
}

// inFull reports whether a refusal is to be recorded in full; else it is counted.
func (r *refusals) inFull(by refusedBy) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.by[by]
	if c == nil {
		if len(r.by) >= countedKeys {
			by.id, by.source = "", ""
		}
		if c = r.by[by]; c == nil {
			c = &share{}
			r.by[by] = c
		}
	}
	if r.full >= fullMinute || r.callers[by.caller()] >= fullCaller || c.full >= fullRule {
		c.more++
		return false
	}
	r.full++
	r.callers[by.caller()]++
	c.full++
	return true
}

// take begins another minute, and returns what of the one before is known by number alone,
// as entries of the record.
func (r *refusals) take(now time.Time) []ledger.Entry {
	r.mu.Lock()
	since, by := r.since, r.by
	r.since, r.full, r.callers, r.by = now, 0, map[string]int{}, map[refusedBy]*share{}
	r.mu.Unlock()

	type number struct {
		refusedBy
		n int
	}
	var numbers []number
	for b, c := range by {
		if c.more > 0 {
			numbers = append(numbers, number{b, c.more})
		}
	}
	compare := func(a, b number) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.caller(), b.caller()), cmp.Compare(a.rule, b.rule))
	}
	slices.SortFunc(numbers, compare)
	if len(numbers) > countedApart {
		rest := map[refusedBy]int{}
		for _, n := range numbers[countedApart:] {
			rest[refusedBy{rule: n.rule, code: n.code}] += n.n
		}
		numbers = numbers[:countedApart]
		for b, n := range rest {
			numbers = append(numbers, number{b, n})
		}
		slices.SortFunc(numbers[countedApart:], compare)
	}
	entries := make([]ledger.Entry, len(numbers))
	for i, n := range numbers {
		entries[i] = ledger.Entry{
			Time: now, Event: ledger.Refused, ID: n.id, Peer: n.source, Code: n.code.String(), Rule: string(n.rule), Count: n.n,
			Reason: fmt.Sprintf("%d more since %s, too many to record each", n.n, since.UTC().Format(time.RFC3339)),
		}
	}
	return entries
}

// Run records each minute how many refusals there were that are not recorded in full,
// until ctx ends; [Service.Settle] has the last.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.Settle()
		}
	}
}

// Settle records how many refusals there were since it last did, but for those that are
// recorded in full. It is called when no more requests come.
func (s *Service) Settle() {
	unwritable := false
	for _, r := range []*refusals{s.proven, s.unproven} {
		for _, e := range r.take(time.Now()) {
			s.options.Log.Warn("refused more", "id", e.ID, "peer", e.Peer, "code", e.Code, "rule", e.Rule, "count", e.Count)
			if unwritable { // each try may take as long as the record takes to fail
				continue
			}
			if err := s.authority.record(e); err != nil {
				s.options.Log.Error("numbers of refusals are not in the record", "err", err)
				unwritable = true
			}
		}
	}
}

// sourceOf returns where a caller is: an address, or of IPv6 the network that counts as one.
func sourceOf(peer string) string {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return peer
	}
	from := remote.Network(at.Addr())
	if from.IsSingleIP() {
		return from.Addr().String()
	}
	return from.String()
}
