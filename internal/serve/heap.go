package serve

import (
	"context"
	"runtime"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// heapReserve is in bytes. With GOGC at 40, as Citadel's manifest has it, there are 32 MiB
	// at least to fill between two collections, which spares it a fifth of the CPU time.
	heapReserve = 80 << 20

	// heapLarge is from when on, the reserve among it, there is no need of one.
	heapLarge = heapReserve + heapReserve*3/4

	// heapLooked is how often the heap is looked at.
	heapLooked = 2 * time.Second
)

// HeapReserve is a part that sets memory aside and never touches it, until the heap has
// grown to three quarters of that itself. Garbage is collected whenever the heap has grown
// by a share of itself, GOGC, which is dozens of times a second for a server that keeps
// little and is asked much. With a reserve that share is never less than that of the
// reserve; a server that keeps much has no need of it. It is address space and no memory,
// though GOMEMLIMIT counts it as used.
func HeapReserve(ctx context.Context) error {
	reserve := make([]byte, heapReserve)
	// Where the runtime had to clear it first, its pages are there. Without advice they
	// stay: that costs memory and nothing else.
	_ = unix.Madvise(reserve, unix.MADV_DONTNEED)
	tick := time.NewTicker(heapLooked)
	defer tick.Stop()
	for liveHeap() < heapLarge && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		runtime.KeepAlive(reserve)
	}
	<-ctx.Done()
	return nil
}

// liveHeap is what the last collection left, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
