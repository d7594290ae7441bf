package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// RefAnnotation is the annotation of an index entry that holds the full
// reference of the image, registry and tag included.
const RefAnnotation = "org.opencontainers.image.ref.name"

// Tagged is an image under its full reference (docker.io/garrison/proxy:v1).
type Tagged struct {
	Ref   string
	Image v1.Image
}

// WriteLayout makes dir an OCI image layout that holds exactly images, sorted
// by reference. Blobs that are already there stay, blobs that no image needs
// any more go, and the index is replaced last and at once, so that a reader
// never sees an index that names a missing blob.
func WriteLayout(dir string, images []Tagged) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b Tagged) int { return strings.Compare(a.Ref, b.Ref) })
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	needed := map[string]bool{}
	for i, t := range images {
		if i > 0 && images[i-1].Ref == t.Ref {
			return fmt.Errorf("%s: given twice", t.Ref)
		}
		names, err := writeImage(dir, t.Image)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Ref, err)
		}
		for _, name := range names {
			needed[name] = true
		}
		d, err := partial.Descriptor(t.Image)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Ref, err)
		}
		config, err := t.Image.ConfigFile()
		if err != nil {
			return fmt.Errorf("%s: %w", t.Ref, err)
		}
		d.Platform = config.Platform()
		d.Annotations = map[string]string{RefAnnotation: t.Ref}
		index.Manifests = append(index.Manifests, *d)
	}
	body, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, "oci-layout"), strings.NewReader(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, "index.json"), bytes.NewReader(body)); err != nil {
		return err
	}
	return sweep(filepath.Join(dir, "blobs", "sha256"), needed)
}

// ReadLayout lists the images of the layout in dir that have a reference, in
// the order of the index. A folder that is not there holds none.
func ReadLayout(dir string) ([]Tagged, error) {
	if _, err := os.Stat(filepath.Join(dir, "index.json")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var images []Tagged
	for _, d := range manifest.Manifests {
		ref := d.Annotations[RefAnnotation]
		if ref == "" {
			continue
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		images = append(images, Tagged{Ref: ref, Image: img})
	}
	return images, nil
}

// writeImage stores the blobs of img, its manifest last, and returns their
// names.
func writeImage(dir string, img v1.Image) ([]string, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	var names []string
	store := func(digest v1.Hash, size int64, open func() (io.ReadCloser, error)) error {
		names = append(names, digest.Hex)
		file := filepath.Join(dir, "blobs", digest.Algorithm, digest.Hex)
		if info, err := os.Stat(file); err == nil && info.Size() == size {
			return nil // named by its content, and whole: it was renamed into place
		}
		r, err := open()
		if err != nil {
			return err
		}
		return errors.Join(replace(file, r), r.Close())
	}
	for _, l := range layers {
		d, err := partial.Descriptor(l)
		if err != nil {
			return nil, err
		}
		if err := store(d.Digest, d.Size, l.Compressed); err != nil {
			return nil, err
		}
	}
	for _, part := range []struct {
		name func() (v1.Hash, error)
		body func() ([]byte, error)
	}{{img.ConfigName, img.RawConfigFile}, {img.Digest, img.RawManifest}} {
		digest, err := part.name()
		if err != nil {
			return nil, err
		}
		body, err := part.body()
		if err != nil {
			return nil, err
		}
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		if err := store(digest, int64(len(body)), open); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// replace puts the content of r at file by a rename.
func replace(file string, r io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails, as it should, after the rename
	_, err = io.Copy(tmp, r)
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// sweep removes the blobs that are not needed.
func sweep(blobs string, needed map[string]bool) error {
	files, err := os.ReadDir(blobs)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if !needed[f.Name()] {
			errs = append(errs, os.Remove(filepath.Join(blobs, f.Name())))
		}
	}
	return errors.Join(errs...)
}
