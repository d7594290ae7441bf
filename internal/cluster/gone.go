package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/garrison-mesh/garrison/internal/elapsed"
	"github.com/garrison-mesh/garrison/internal/recent"
)

const (
	// goneFor is how long it is remembered that an object is gone. What has a UID of
	// its own never comes back; that this ends soon is for a storage that is put back
	// to an earlier state.
	goneFor = 10 * time.Second

	goneKept = 4 << 10 // objects, some 300 bytes each
)

// incarnation is one object of all that have had its name.
type incarnation struct {
	kind string // as mirrors are called
	key  key
	uid  string
}

// gone remembers which objects were not there when they were read a moment ago, so
// that whoever holds the token of one costs no more than a read now and then, however
// often it is shown. It knows no object that is there: each of those is read anew.
type gone struct {
	mu      sync.Mutex
	known   *recent.Map[incarnation, absence]
	reading map[incarnation]chan struct{} // closed when that has ended
}

// absence is that another object, or none, had the name of one.
type absence struct {
	instead *resident
	at      time.Time
}

func newGone() *gone {
	return &gone{known: recent.New[incarnation, absence](goneKept), reading: map[incarnation]chan struct{}{}}
}

// look returns what has the name of an object, by read unless that one is known to be
// gone. Of those who ask for one object together, one reads at a time.
func (g *gone) look(ctx context.Context, of incarnation, read func() (*resident, error)) (*resident, error) {
	for {
		was, under := g.begin(of)
		if was != nil {
			return was.instead, nil
		}
		if under == nil {
			break
		}
		select {
		case <-under:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
	var is *absence
	defer func() { g.end(of, is) }()
	found, err := read()
	if err == nil && (found == nil || found.uid != of.uid) {
		is = &absence{found, time.Now()}
	}
	return found, err
}

// begin returns what is known, or the end of the read that is under way, or neither,
// and then the caller has to read and to call end.
func (g *gone) begin(of incarnation) (was *absence, under chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if known, ok := g.known.Get(of); ok && elapsed.Since(known.at) < goneFor {
		return &known, nil
	}
	under = g.reading[of]
	if under == nil {
		g.reading[of] = make(chan struct{})
	}
	return nil, under
}

func (g *gone) end(of incarnation, is *absence) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if is != nil {
		g.known.Put(of, *is)
	}
	close(g.reading[of])
	delete(g.reading, of)
}
