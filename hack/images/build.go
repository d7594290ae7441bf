package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// sources are part of each layer's key: the rules in them shape the bytes.
//
//go:embed *.go
var sources embed.FS

// keepLayers is how long an unused layer stays in the cache. Every commit makes
// new layers of our programs, some 50 MB of them.
const keepLayers = 24 * time.Hour

// workshop is where images are made.
type workshop struct {
	root   string // of the repository
	cache  string // for packages, wheels, layers
	out    string // the layout
	tag    string
	stdout io.Writer // a line for each image
	warn   io.Writer

	replaced map[pkg]pkg       // locked packages that the archive has dropped → taken instead
	built    map[string]string // programs built in this run → their checksum
}

// build makes the images with the given names, or all of them, and stores them
// in the layout. One that fails does not keep the others from being stored.
// Without names, programs that this tree does not have are left out with a
// word; asked for by name, that is an error.
func (w *workshop) build(ctx context.Context, names []string) error {
	if runtime.GOARCH != architecture {
		return fmt.Errorf("only %s packages are locked, this machine is %s", architecture, runtime.GOARCH)
	}
	wanted, err := choose(catalogue(w.tag), names)
	if err != nil {
		return err
	}
	unlock, err := w.lockCache()
	if err != nil {
		return err
	}
	defer unlock()
	w.replaced, w.built = map[pkg]pkg{}, map[string]string{}

	var (
		made []oci.Tagged
		errs []error
	)
	for _, i := range wanted {
		start := time.Now()
		img, err := w.image(ctx, i)
		if errors.Is(err, errNoSource) && len(names) == 0 {
			fmt.Fprintf(w.stdout, "%s  left out: %v\n", i.ref, err)
			continue
		}
		if err == nil {
			err = w.report(i.ref, img, start)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", i.ref, err))
			continue
		}
		made = append(made, oci.Tagged{Ref: i.ref, Image: img})
	}
	if len(names) > 0 { // the others stay as they are
		stored, err := oci.ReadLayout(w.out)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, s := range stored {
			if !slices.ContainsFunc(made, func(m oci.Tagged) bool { return m.Ref == s.Ref }) {
				made = append(made, s)
			}
		}
	}
	return errors.Join(append(errs, oci.WriteLayout(w.out, made), w.prune())...)
}

// choose picks images by name, or by reference where two share a name.
func choose(all []image, names []string) ([]image, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []image
	for _, n := range names {
		before := len(chosen)
		var known []string
		for _, i := range all {
			known = append(known, i.name())
			if i.name() == n || i.ref == n {
				chosen = append(chosen, i)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("no image %q; there are %s", n, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// image makes one image of its layers.
func (w *workshop) image(ctx context.Context, i image) (v1.Image, error) {
	spec := i.spec
	spec.Architecture = architecture
	for _, r := range i.layers {
		l, setuid, err := w.layer(ctx, r)
		if err != nil {
			return nil, err
		}
		if err := checkPrivileged(setuid, i.allowed); err != nil {
			return nil, err
		}
		spec.Layers = append(spec.Layers, l)
	}
	return oci.Image(spec)
}

// finished is what the cache knows of a layer beside its bytes.
type finished struct {
	oci.Blob
	Setuid []string // programs in it that take their owner's or group's rights
}

// layer takes a layer from the cache, or makes it and puts it there.
func (w *workshop) layer(ctx context.Context, r recipe) (v1.Layer, []string, error) {
	key, err := w.key(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(w.cache, "images", "layers")
	if l, setuid, ok := cachedLayer(dir, key); ok {
		return l, setuid, nil
	}
	entries, err := r.entries(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	if key, err = w.key(ctx, r); err != nil { // again: packages may have been replaced
		return nil, nil, err
	}
	if err := storeLayer(dir, key, entries); err != nil {
		return nil, nil, err
	}
	l, setuid, ok := cachedLayer(dir, key)
	if !ok {
		return nil, nil, fmt.Errorf("layer %s: gone from the cache", key)
	}
	return l, setuid, nil
}

// key names a layer by everything that its bytes depend on: the recipe's
// inputs, the rules in this package, and how package oci writes a layer.
func (w *workshop) key(ctx context.Context, r recipe) (string, error) {
	in, err := r.inputs(ctx, w)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	probe, err := oci.Layer([]oci.Entry{
		{Path: "d/f", Mode: 0o755 | fs.ModeSetuid, Body: []byte(strings.Repeat("probe", 99)), UID: 1, GID: 2},
		{Path: "h", Link: "d/f"},
		{Path: "s", Mode: fs.ModeSymlink, Link: "d/f"},
	})
	if err != nil {
		return "", err
	}
	format, err := probe.Digest()
	if err != nil {
		return "", err
	}
	in = append(in, format.String())
	for _, s := range in {
		fmt.Fprintf(sum, "%d %s\n", len(s), s)
	}
	err = fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		body, err := sources.ReadFile(name)
		fmt.Fprintf(sum, "%s %d %s\n", name, len(body), body)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

// cachedLayer finds a finished layer. Its description is written after its
// bytes, so that one that has a description is whole.
func cachedLayer(dir, key string) (v1.Layer, []string, bool) {
	file := filepath.Join(dir, key)
	text, err := os.ReadFile(file + ".json")
	if err != nil {
		return nil, nil, false
	}
	var f finished
	if json.Unmarshal(text, &f) != nil {
		return nil, nil, false
	}
	info, err := os.Stat(file + ".tar.gz")
	if err != nil || info.Size() != f.Size {
		return nil, nil, false
	}
	now := time.Now()
	_ = os.Chtimes(file+".tar.gz", now, now) // prune goes by it; a day more or less does no harm
	return oci.FileLayer(file+".tar.gz", f.Blob), f.Setuid, true
}

func storeLayer(dir, key string, entries []oci.Entry) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".layer-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails, as it should, after the rename
	blob, err := oci.WriteLayer(tmp, entries)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	file := filepath.Join(dir, key)
	if err := os.Rename(tmp.Name(), file+".tar.gz"); err != nil {
		return err
	}
	text, err := json.Marshal(finished{blob, privileged(entries)})
	if err != nil {
		return err
	}
	return os.WriteFile(file+".json", text, 0o644)
}

// prune removes layers that no build has used for a while.
func (w *workshop) prune() error {
	files, err := filepath.Glob(filepath.Join(w.cache, "images", "layers", "*.tar.gz"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil || time.Since(info.ModTime()) < keepLayers {
			continue
		}
		errs = append(errs, os.Remove(strings.TrimSuffix(f, ".tar.gz")+".json"), os.Remove(f))
	}
	return errors.Join(errs...)
}

// lockCache waits for other builds of this user to end.
func (w *workshop) lockCache() (unlock func(), err error) {
	dir := filepath.Join(w.cache, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing releases it
}

// report prints the line of an image: reference, digest, compressed size, time.
func (w *workshop) report(ref string, img v1.Image, start time.Time) error {
	digest, total, err := weigh(img)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w.stdout, "%s  %s  %s  %.1f s\n", ref, digest, size(total), time.Since(start).Seconds())
	return err
}

// weigh sums the compressed layers.
func weigh(img v1.Image) (v1.Hash, int64, error) {
	digest, err := img.Digest()
	if err != nil {
		return v1.Hash{}, 0, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return v1.Hash{}, 0, err
	}
	var total int64
	for _, l := range manifest.Layers {
		total += l.Size
	}
	return digest, total, nil
}
