package serve

import (
	"context"
	"runtime"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

// heapLooked is how often the heap is compared with its reserve.
const heapLooked = 2 * time.Second

// HeapReserve returns a part that sets so many bytes aside and never touches them, until the
// heap has grown to three quarters of that itself. Garbage is collected whenever the heap has grown by a share
// of itself, GOGC, which is dozens of times a second for a server that keeps little and is
// asked much. With a reserve that share is never less than that of the reserve; a server
// that keeps much has no need of it. It is address space and no memory, though GOMEMLIMIT
// counts it as used.
func HeapReserve(size uint64) func(context.Context) error {
	return func(ctx context.Context) error {
		reserve := make([]byte, size)
		// Where the runtime had to clear it first, its pages are there. Without advice they
		// stay: that costs memory and nothing else.
		_ = unix.Madvise(reserve, unix.MADV_DONTNEED)
		tick := time.NewTicker(heapLooked)
		defer tick.Stop()
		for liveHeap() < size+size*3/4 { // the reserve among it
			select {
			case <-ctx.Done():
				runtime.KeepAlive(reserve)
				return nil
			case <-tick.C:
			}
			runtime.KeepAlive(reserve)
		}
		<-ctx.Done()
		return nil
	}
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
