//go:build tools

// Package runc pins the version of runc that the lab builds. It holds no code.
package runc

import _ "github.com/opencontainers/runc"
