// Package e2e proves Garrison's promises on a real cluster, with a real Envoy and
// real clients: one script for each promise, in testdata/scripts. Those in
// testdata/disruptive take servers away and run one after another, last; so do those
// of testdata/long, which only `make test-long` runs (build tag long).
//
// It needs KUBECONFIG to name a cluster of the lab with Garrison installed, as
// `make test` starts one; without it every test is skipped. Start reading at any
// script, then commands_test.go for the verbs that scripts have beside testscript's own.
package e2e
