//go:build long

package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The Secrets of 50,000 service accounts, their first and those below the next root, are
// kept in the memory that was promised. How long it takes
// depends on the machine and is only told; `bench -only secrets` measures it.
func TestSecretsOfManyAccounts(t *testing.T) {
	const accounts, bound = 50_000, 20 * time.Minute
	dir := t.TempDir()
	program := filepath.Join(dir, "bench") // this test's own may have the race detector in it, which takes memory
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), bound, fmt.Errorf("not done after %v", bound))
	defer cancel()
	all, err := bench{dir: dir, plan: plan{accounts: accounts}}.keepAll(ctx, program)
	if err != nil {
		t.Fatal(err)
	}
	if all.memory >= secretsGoal<<20 {
		t.Errorf("took %d MiB, and may take less than %d", all.memory>>20, secretsGoal)
	}
	t.Logf("first %v (CPU %v), rotation %v (CPU %v, %d reads), %d MiB",
		all.first.took, all.first.cpu, all.rotation.took, all.rotation.cpu, all.reads, all.memory>>20)
}
