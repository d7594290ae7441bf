package meshtest

import (
	"testing"
	"time"
	"unsafe"
)

// Suspended returns moment as it is remembered on a machine that was suspended for d, of
// whole seconds, since: so much earlier by the clock on the wall, and as long ago as
// before by the monotonic one. Nothing but a suspension makes such a moment.
func Suspended(t testing.TB, moment time.Time, d time.Duration) time.Time {
	t.Helper()
	was := moment
	*(*uint64)(unsafe.Pointer(&moment)) -= uint64(d/time.Second) << 30 // seconds stand above the nanoseconds
	if was.Sub(moment) != 0 || was.Round(0).Sub(moment.Round(0)) != d {
		t.Fatalf("times are made otherwise by now: %v, %v", was, moment)
	}
	return moment
}
