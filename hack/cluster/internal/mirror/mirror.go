// Package mirror is the registry that every node of a cluster takes all its
// images from. It is filled from OCI layouts on disk, whose index names each
// image by its full reference, and it can be pushed to. The registry that a reference names is dropped: the nodes ask
// here for docker.io/library/x and ghcr.io/library/x alike.
//
// It refuses nothing: it must listen where only the cluster and its host reach
// it. Start reading at [Mirror.Load].
package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// Mirror serves the images that were loaded or pushed.
type Mirror struct {
	http.Handler
	blobs blobs
}

// New makes a mirror that keeps its blobs in dir, and tells its log of requests
// that fail.
func New(dir string, logger *log.Logger) (*Mirror, error) {
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o755); err != nil {
		return nil, err
	}
	b := blobs{dir: dir}
	return &Mirror{Handler: registry.New(registry.WithBlobHandler(b), registry.Logger(logger)), blobs: b}, nil
}

// Load adds the images of a layout, replaces those whose reference now means
// another image, and returns how many there are. A layout that does not exist
// holds none. Blobs are linked, not copied, and stay when the layout changes.
func (m *Mirror) Load(layout string) (int, error) {
	b, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(b, &index); err != nil {
		return 0, fmt.Errorf("%s: index.json: %w", layout, err)
	}
	if err := m.link(filepath.Join(layout, "blobs", "sha256")); err != nil {
		return 0, fmt.Errorf("%s: %w", layout, err)
	}
	loaded := 0
	for _, d := range index.Manifests {
		ref := d.Annotations[oci.RefAnnotation]
		if ref == "" {
			continue // part of an image that another entry names
		}
		tag, err := name.NewTag(ref)
		if err != nil {
			return loaded, fmt.Errorf("%s: %w", layout, err)
		}
		if err := m.put(tag.RepositoryStr(), tag.TagStr(), d); err != nil {
			return loaded, fmt.Errorf("%s: %s: %w", layout, ref, err)
		}
		loaded++
	}
	return loaded, nil
}

// put stores a manifest under a tag or digest, and before it those that it lists.
func (m *Mirror) put(repo, target string, d v1.Descriptor) error {
	body, err := os.ReadFile(m.blobs.path(d.Digest))
	if err != nil {
		return err
	}
	if d.MediaType.IsIndex() {
		var index v1.IndexManifest
		if err := json.Unmarshal(body, &index); err != nil {
			return err
		}
		for _, child := range index.Manifests {
			if err := m.put(repo, child.Digest.String(), child); err != nil {
				return err
			}
		}
	}
	req := httptest.NewRequest(http.MethodPut, "/v2/"+repo+"/manifests/"+target, bytes.NewReader(body))
	req.Header.Set("Content-Type", string(d.MediaType))
	resp := httptest.NewRecorder()
	m.ServeHTTP(resp, req)
	if resp.Code != http.StatusCreated {
		return fmt.Errorf("manifest %v: %d %s", d.Digest, resp.Code, resp.Body)
	}
	return nil
}

// link gives every blob of a layout a second name among the mirror's own.
func (m *Mirror) link(from string) error {
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		h := v1.Hash{Algorithm: "sha256", Hex: f.Name()}
		source := filepath.Join(from, f.Name())
		err := os.Link(source, m.blobs.path(h))
		if err == nil || errors.Is(err, fs.ErrExist) {
			continue
		}
		// Another file system, or one without links.
		r, err := os.Open(source)
		if err != nil {
			return err
		}
		err = m.blobs.write(h, r)
		_ = r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
