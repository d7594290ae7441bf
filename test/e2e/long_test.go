//go:build long

package e2e

import "testing"

// TestLong takes away what a cluster loses on bad days, and waits for what takes
// its time. Its scripts come last: they want Garrison installed.
func TestLong(t *testing.T) {
	inOrder(t, "testdata/long")
}
