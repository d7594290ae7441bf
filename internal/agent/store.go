package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/garrison-mesh/garrison/internal/identity"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// store is the folder that shows the certificate to people and programs. It is
// laid out as the kubelet lays out volumes: the files are links through the link
// ..data into a folder that is never changed once it is named, so one rename
// replaces all three, and whoever resolves ..data once reads a pair that fits.
type store string

const (
	storeLink = "..data"
	storeNext = "..data_next"
)

// write replaces the set, or leaves the old one whole.
func (s store) write(c *Certificate) error {
	set, err := os.MkdirTemp(string(s), "..set-")
	if err != nil {
		return err
	}
	if err := s.fill(set, c); err != nil {
		os.RemoveAll(set)
		return err
	}
	return s.sweep(filepath.Base(set))
}

// fill writes the files into set and makes it the current one.
func (s store) fill(set string, c *Certificate) error {
	for name, text := range map[string][]byte{mesh.CertChain: c.chain, mesh.CertKey: c.key, mesh.CertRoot: c.roots} {
		if err := os.WriteFile(filepath.Join(set, name), text, 0o400); err != nil {
			return err
		}
		if err := s.link(filepath.Join(storeLink, name), name); err != nil {
			return err
		}
	}
	return s.link(filepath.Base(set), storeLink)
}

// link makes name point to target by one rename, whatever name was before.
func (s store) link(target, name string) error {
	path := filepath.Join(string(s), name)
	if now, err := os.Readlink(path); err == nil && now == target {
		return nil
	}
	next := filepath.Join(string(s), storeNext)
	if err := os.Remove(next); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// sweep removes every set but the current one: old keys do not lie about, and a
// container that was killed half-way through write leaves nothing for ever.
func (s store) sweep(current string) error {
	entries, err := os.ReadDir(string(s))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, "..set-") && name != current {
			if err := os.RemoveAll(filepath.Join(string(s), name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// read returns the set that an earlier life of the container left, if it is still
// good for id.
func (s store) read(id identity.ID, now time.Time) (*Certificate, error) {
	set, err := filepath.EvalSymlinks(filepath.Join(string(s), storeLink))
	if err != nil {
		return nil, err
	}
	var texts [3][]byte
	for i, name := range []string{mesh.CertChain, mesh.CertKey, mesh.CertRoot} {
		if texts[i], err = os.ReadFile(filepath.Join(set, name)); err != nil {
			return nil, err
		}
	}
	c, err := readCertificate(texts[0], texts[1], texts[2], id, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", string(s), err)
	}
	return c, nil
}
