package serve

import (
	"context"
	"runtime"
	"testing"
	"time"
)

// The reserve counts as live, and is given back when the heap is large.
func TestHeapReserve(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- HeapReserve(ctx) }() // waited for below
	until := func(what string, done func(uint64) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			runtime.GC()
			live := liveHeap()
			if done(live) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d MiB live", what, live>>20)
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	until("set aside", func(live uint64) bool { return live >= heapReserve })
	much := make([]byte, heapReserve)
	until("given back", func(live uint64) bool { return live >= heapReserve && live < heapLarge })
	runtime.KeepAlive(much)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
