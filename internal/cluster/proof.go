package cluster

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// maxReadings is how many readings wait for a watch that is behind. They are made
// several times in a window, so those that are dropped are too old to prove anything.
const maxReadings = 16

// reading is what version the API server was at, or at a later one, at some moment.
type reading struct {
	version string
	at      time.Time
}

// proof tells how old a watch's state can be at most. A watch that is silent may be
// one of quiet objects or one that is stuck, and looks the same; so the version that
// the API server is at is read beside it, from the storage and not from a cache. As
// soon as the watch has told of that version or of a later one, whether by an object
// or by a bookmark, it knows all that had happened by the time of the reading.
type proof struct {
	mu      sync.Mutex
	seen    string    // the version that the watch has told all up to
	waiting []reading // that the watch has not come to, oldest first
	asOf    time.Time // the state is no older than this; zero: nothing is proven
}

// saw says that the watch has told everything up to version.
func (p *proof) saw(version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = version
	p.settle()
}

// read says that the API server was at r.version or later at r.at.
func (p *proof) read(r reading) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == maxReadings {
		p.waiting = append(p.waiting[:0], p.waiting[1:]...)
	}
	p.waiting = append(p.waiting, r)
	p.settle()
}

// settle takes the readings that the watch has reached as proven.
func (p *proof) settle() {
	reached := 0
	for reached < len(p.waiting) {
		order, err := resourceversion.CompareResourceVersion(p.seen, p.waiting[reached].version)
		if err != nil || order < 0 {
			break // versions that cannot be compared prove nothing
		}
		p.asOf = p.waiting[reached].at
		reached++
	}
	p.waiting = append(p.waiting[:0], p.waiting[reached:]...)
}

// proven returns the moment that the state is no older than, zero for none.
func (p *proof) proven() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asOf
}
