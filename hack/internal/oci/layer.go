// Package oci makes OCI image layers, images and layouts out of plain file
// lists, without a container engine and without looking at the host: equal
// entries give equal bytes, whatever the clock, the umask, the user or the
// order in which the entries came.
//
// It refuses entries that could mean two things: a path that climbs out of the
// root, one path given twice, a file with both a body and a source. It knows
// nothing of Debian, Go or registries; hack/images and hack/cluster decide what
// goes into an image.
//
// Start reading at [Entry] and [Layer]; [Image] puts layers together and
// [WriteLayout] stores images under their references.
package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// compression is fixed because it is part of the digest.
const compression = 6

// epoch is the time of every file in a layer and of every image: the build has
// no clock, so that it can be repeated.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// Entry is one file, folder or link of a layer.
type Entry struct {
	// Path is slash-separated and relative to the root of the image; a
	// leading slash is allowed and ignored.
	Path string
	// Mode holds the permission bits, fs.ModeSetuid, fs.ModeSetgid and
	// fs.ModeSticky, and of the type bits fs.ModeDir or fs.ModeSymlink.
	// No type bit means a regular file, or a hard link if Link is set.
	Mode fs.FileMode
	// Body is the content of a regular file, unless Source is set.
	Body []byte
	// Source is a file of the host to take the content from, and only the
	// content: mode and owner are those of the Entry.
	Source string
	// Link is the target: of a symbolic link verbatim, of a hard link the Path
	// of an earlier regular file in the same layer.
	Link     string
	UID, GID int
}

// Blob names the bytes of a compressed layer.
type Blob struct {
	Digest v1.Hash // of the compressed bytes
	DiffID v1.Hash // of the tar within
	Size   int64   // of the compressed bytes
}

// Layer makes a layer from entries and keeps its compressed bytes in memory.
// For large layers use [WriteLayer] and [FileLayer].
func Layer(entries []Entry) (v1.Layer, error) {
	var buf bytes.Buffer
	b, err := WriteLayer(&buf, entries)
	if err != nil {
		return nil, err
	}
	return &layer{Blob: b, open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}}, nil
}

// FileLayer is the layer that [WriteLayer] wrote to file and described by b.
// The file must stay as it is for as long as the layer is used.
func FileLayer(file string, b Blob) v1.Layer {
	return &layer{Blob: b, open: func() (io.ReadCloser, error) { return os.Open(file) }}
}

// WriteLayer writes the layer of entries, compressed, to w. Entries are sorted
// by path; parent folders that are not among them are added with mode 0755 and
// owner root. The caller makes sure that such a parent does not hide a link of
// a layer below (bin/x where bin is a link to usr/bin).
func WriteLayer(w io.Writer, entries []Entry) (Blob, error) {
	sorted, err := arrange(entries)
	if err != nil {
		return Blob{}, err
	}
	packed := &tally{w: w, sum: sha256.New()}
	zip, err := gzip.NewWriterLevel(packed, compression)
	if err != nil {
		return Blob{}, err
	}
	plain := &tally{w: zip, sum: sha256.New()}
	archive := tar.NewWriter(plain)
	for _, e := range sorted {
		if err := e.write(archive); err != nil {
			return Blob{}, fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		return Blob{}, err
	}
	return Blob{Digest: packed.hash(), DiffID: plain.hash(), Size: packed.n}, nil
}

// arrange cleans and sorts the paths, adds parents and hard links in an order
// in which an archive can be unpacked, and refuses what is ambiguous.
func arrange(entries []Entry) ([]Entry, error) {
	byPath := make(map[string]Entry, len(entries))
	for _, e := range entries {
		clean, err := cleanPath(e.Path)
		if err != nil {
			return nil, err
		}
		e.Path = clean
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", clean, err)
		}
		if _, ok := byPath[clean]; ok {
			return nil, fmt.Errorf("%s: given twice", clean)
		}
		byPath[clean] = e
	}
	for _, e := range entries {
		clean, _ := cleanPath(e.Path)
		for dir := path.Dir(clean); dir != "."; dir = path.Dir(dir) {
			if parent, ok := byPath[dir]; ok {
				if !parent.Mode.IsDir() {
					return nil, fmt.Errorf("%s: %s is not a folder", clean, dir)
				}
				break
			}
			byPath[dir] = Entry{Path: dir, Mode: fs.ModeDir | 0o755}
		}
	}
	sorted := make([]Entry, 0, len(byPath))
	for _, e := range byPath {
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, func(a, b Entry) int {
		if ah, bh := a.isHardLink(), b.isHardLink(); ah != bh { // a hard link needs its target first
			if bh {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Path, b.Path)
	})
	for i, e := range sorted {
		if !e.isHardLink() {
			continue
		}
		target, err := cleanPath(e.Link)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Path, err)
		}
		if t, ok := byPath[target]; !ok || !t.Mode.IsRegular() || t.isHardLink() {
			return nil, fmt.Errorf("%s: hard link to %s, which is no file of this layer", e.Path, target)
		}
		sorted[i].Link = target
	}
	return sorted, nil
}

// cleanPath gives the form that paths have inside a layer.
func cleanPath(p string) (string, error) {
	clean := path.Clean(strings.TrimLeft(p, "/"))
	if p == "" || clean == "." || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("path %q: not below the root", p)
	}
	return clean, nil
}

func (e Entry) isHardLink() bool { return e.Mode.IsRegular() && e.Link != "" }

func (e Entry) check() error {
	content := e.Body != nil || e.Source != ""
	switch kind := e.Mode.Type(); {
	case kind == fs.ModeSymlink && (e.Link == "" || content):
		return errors.New("a symbolic link has a target and no content")
	case kind == fs.ModeDir && (e.Link != "" || content):
		return errors.New("a folder has neither target nor content")
	case kind == 0 && e.Link != "" && content:
		return errors.New("a hard link has no content")
	case e.Body != nil && e.Source != "":
		return errors.New("both a body and a source")
	case kind != 0 && kind != fs.ModeDir && kind != fs.ModeSymlink:
		return fmt.Errorf("mode %v: only files, folders and links", e.Mode)
	}
	return nil
}

func (e Entry) write(to *tar.Writer) error {
	h := &tar.Header{
		Name: e.Path, Mode: tarMode(e.Mode), ModTime: epoch(),
		Uid: e.UID, Gid: e.GID, Typeflag: tar.TypeReg,
	}
	switch {
	case e.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case e.Mode.Type() == fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
	case e.isHardLink():
		h.Typeflag, h.Linkname = tar.TypeLink, e.Link
	}
	if h.Typeflag != tar.TypeReg {
		return to.WriteHeader(h)
	}
	if e.Source == "" {
		h.Size = int64(len(e.Body))
		if err := to.WriteHeader(h); err != nil {
			return err
		}
		_, err := to.Write(e.Body)
		return err
	}
	f, err := os.Open(e.Source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := to.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(to, f)
	return err
}

// tarMode puts the bits where a tar header has them; Go keeps setuid and its
// siblings elsewhere in its own modes.
func tarMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= value
		}
	}
	return mode
}

// tally counts and sums what passes through it.
type tally struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.sum.Write(p[:n])
	t.n += int64(n)
	return n, err
}

func (t *tally) hash() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(t.sum.Sum(nil))}
}

// layer is a [v1.Layer] over compressed bytes that can be opened again.
type layer struct {
	Blob
	open func() (io.ReadCloser, error)
}

func (l *layer) Digest() (v1.Hash, error)             { return l.Blob.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.Blob.DiffID, nil }
func (l *layer) Size() (int64, error)                 { return l.Blob.Size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return l.open() }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return unzip(l.open) }

func unzip(open func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	f, err := open()
	if err != nil {
		return nil, err
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{zip, f}, nil
}
