//go:build tools

// Package containerd pins the versions of containerd, its shim and ctr that the
// lab builds. It holds no code.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
