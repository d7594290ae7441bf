// Package arch holds the rules of the tree as tests: who may import whom, that
// every package says what it is, that none has hidden state or reads the
// environment below cmd. It exports nothing; the rules are the tables at the top
// of arch_test.go, each with its reason, and that is where to start reading.
package arch
