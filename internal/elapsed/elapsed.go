// Package elapsed measures time for who must not take the old for new.
package elapsed

import "time"

// Between is the time between two moments, by the clock that went further. The monotonic
// one stands still while a machine is suspended, and what it was told before is older
// than that clock says; the one on the wall may be set back.
func Between(from, to time.Time) time.Duration {
	return max(to.Sub(from), to.Round(0).Sub(from.Round(0)))
}

// Since is [Between] until now.
func Since(from time.Time) time.Duration { return Between(from, time.Now()) }
