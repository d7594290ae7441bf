package mirror

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobs keeps each blob in a file named by its digest. Unlike the library's own
// store it does not hash a blob again each time that somebody asks for its size:
// the registry checks what is pushed, and containerd what it pulls.
type blobs struct{ dir string }

func (b blobs) path(h v1.Hash) string { return filepath.Join(b.dir, h.Algorithm, h.Hex) }

// Stat returns a blob's size.
func (b blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	st, err := os.Stat(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, registry.ErrNotFound
	} else if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Get opens a blob.
func (b blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	f, err := os.Open(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, registry.ErrNotFound
	}
	return f, err
}

// Put stores a blob that somebody pushed; the registry has checked its digest
// once the body ends without an error.
func (b blobs) Put(_ context.Context, _ string, h v1.Hash, body io.ReadCloser) error {
	defer func() { _ = body.Close() }()
	return b.write(h, body)
}

func (b blobs) write(h v1.Hash, r io.Reader) error {
	f, err := os.CreateTemp(b.dir, "upload-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // what is left of a failure
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), b.path(h))
}
