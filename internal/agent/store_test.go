package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func TestStoreNeverShowsAMixedPair(t *testing.T) {
	ca, id := newTestCA(t), testID(t, "sleep")
	dir := t.TempDir()
	s := store(dir)
	certs := []*Certificate{ca.certificate(id, time.Hour), ca.certificate(id, time.Hour), ca.certificate(id, time.Hour)}
	if err := s.write(certs[0]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var pairs atomic.Int64
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				set, err := filepath.EvalSymlinks(filepath.Join(dir, storeLink))
				if errors.Is(err, fs.ErrNotExist) {
					continue // replaced while it was resolved
				}
				if err != nil {
					t.Error(err)
					return
				}
				chain, err1 := os.ReadFile(filepath.Join(set, mesh.CertChain))
				key, err2 := os.ReadFile(filepath.Join(set, mesh.CertKey))
				if errors.Is(errors.Join(err1, err2), fs.ErrNotExist) {
					continue // replaced and removed meanwhile: resolve again
				}
				if _, err := tls.X509KeyPair(chain, key); err != nil {
					t.Error(err)
					return
				}
				pairs.Add(1)
				// And a plain reader of one name always finds a whole file.
				if text, err := os.ReadFile(filepath.Join(dir, mesh.CertRoot)); err == nil && !strings.HasSuffix(string(text), "-----END CERTIFICATE-----\n") {
					t.Errorf("half a file: %q", text)
					return
				} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
					return
				}
			}
		})
	}
	// As long as no pair was read, nothing was tried.
	for i := 0; i < 400 || pairs.Load() == 0 && !t.Failed(); i++ {
		if err := s.write(certs[i%len(certs)]); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	readers.Wait()
}

func TestStoreLayout(t *testing.T) {
	ca, id := newTestCA(t), testID(t, "sleep")
	dir := t.TempDir()
	s := store(dir)
	if _, err := s.read(id, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: %v", err)
	}
	// What a life of the container that was killed half-way left behind.
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "..set-killed"), 0o700), os.Symlink("nowhere", filepath.Join(dir, storeNext))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cert := ca.certificate(id, time.Hour)
		if err := s.write(cert); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string][]byte{mesh.CertChain: cert.chain, mesh.CertKey: cert.key, mesh.CertRoot: cert.roots} {
			file := filepath.Join(dir, name)
			got, err := os.ReadFile(file)
			if err != nil || string(got) != string(want) {
				t.Errorf("%s: %v, or another text than written", name, err)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o400 {
				t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 5 { // three names, ..data, one set
			t.Errorf("left behind: %v", entries)
		}
		if read, err := s.read(id, time.Now()); err != nil || read.NotAfter() != cert.NotAfter() {
			t.Errorf("read back: %v", err)
		}
	}
	if _, err := s.read(testID(t, "httpbin"), time.Now()); err == nil {
		t.Error("another identity's certificate was adopted")
	}
	if _, err := s.read(id, time.Now().Add(2*time.Hour)); err == nil {
		t.Error("an expired certificate was adopted")
	}
}

func TestStoreKeepsTheOldSetWhenTheNewCannotBeWritten(t *testing.T) {
	ca, id := newTestCA(t), testID(t, "sleep")
	dir := t.TempDir()
	s := store(dir)
	first := ca.certificate(id, time.Hour)
	if err := s.write(first); err != nil {
		t.Fatal(err)
	}
	// A folder where the link is to be made stops the write before the swap.
	if err := os.MkdirAll(filepath.Join(dir, storeNext, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.write(ca.certificate(id, time.Hour)); err == nil {
		t.Fatal("no error")
	}
	if got, err := s.read(id, time.Now()); err != nil || string(got.chain) != string(first.chain) {
		t.Errorf("old set: %v, or no longer it", err)
	}
}
