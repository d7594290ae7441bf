package main

import "golang.org/x/sys/unix"

// heapReserve is how much memory is set aside and never touched, in bytes. Garbage is
// collected whenever the heap has grown by a share of itself, GOGC, which is dozens of
// times a second for a server that keeps little and is asked much. With a reserve that
// share is never less than that of the reserve: a server that keeps little has room, and
// one that keeps the pods of a large cluster takes hardly more than without.
const heapReserve = 64 << 20

// reserveHeap returns the reserve, which counts for as long as it is kept alive. It is
// address space and no memory, though GOMEMLIMIT counts it as used.
func reserveHeap() []byte {
	reserve := make([]byte, heapReserve)
	// Where the runtime had to clear it first, its pages are there. Without advice they
	// stay: that costs memory and nothing else.
	_ = unix.Madvise(reserve, unix.MADV_DONTNEED)
	return reserve
}
