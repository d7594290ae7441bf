package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// output runs a program in dir and returns what it printed. Its complaints
// become the error.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	return outputEnv(ctx, dir, nil, append([]string{name}, args...))
}

// outputEnv is output with an environment of its own; nil means ours.
func outputEnv(ctx context.Context, dir string, env, command []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(command[:min(3, len(command))], " "), err, tail(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// tail keeps the last lines of a complaint, where programs say what was wrong.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
