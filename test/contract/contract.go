// Package contract holds what one part of Garrison writes to what another reads,
// where the two may not import each other. It exports nothing; start reading at
// its tests.
package contract
