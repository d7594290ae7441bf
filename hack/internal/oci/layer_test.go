package oci

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func someEntries(t *testing.T) []Entry {
	t.Helper()
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []Entry{
		{Path: "/usr/bin/tool", Mode: 0o755 | fs.ModeSetuid, Source: source, UID: 7, GID: 8},
		{Path: "a-link", Link: "z/file"},
		{Path: "bin", Mode: fs.ModeSymlink | 0o777, Link: "usr/bin"},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "z/file", Mode: 0o640, Body: []byte("body")},
	}
}

func TestLayerContent(t *testing.T) {
	l, err := Layer(someEntries(t))
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch()) {
			t.Errorf("%s: time %v", h.Name, h.ModTime)
		}
		got = append(got, strings.Join([]string{string(h.Typeflag), h.FileInfo().Mode().String(), h.Name, h.Linkname, string(body)}, "|"))
	}
	want := []string{
		"2|Lrwxrwxrwx|bin|usr/bin|",
		"5|dtrwxrwxrwx|tmp/||",
		"5|drwxr-xr-x|usr/||",
		"5|drwxr-xr-x|usr/bin/||",
		"0|urwxr-xr-x|usr/bin/tool||from a file",
		"5|drwxr-xr-x|z/||",
		"0|-rw-r-----|z/file||body",
		"1|----------|a-link|z/file|",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

// Neither the order of the entries nor the umask nor the mode of a source
// shows in the bytes.
func TestLayerIsReproducible(t *testing.T) {
	entries := someEntries(t)
	first, err := Layer(entries)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Umask(syscall.Umask(0o077))
	slices.Reverse(entries)
	for i := range entries {
		if entries[i].Source != "" {
			if err := os.Chmod(entries[i].Source, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "layer")
	w, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b, err := WriteLayer(w, entries)
	if err != nil {
		t.Fatal(err)
	}
	second := FileLayer(file, b)
	for _, l := range []interface{ Size() (int64, error) }{first, second} {
		if size, err := l.Size(); err != nil || size != b.Size {
			t.Errorf("size %d, %v; want %d", size, err, b.Size)
		}
	}
	want, _ := first.Digest()
	if got, _ := second.Digest(); got != want {
		t.Errorf("digest %v, want %v", got, want)
	}
	want, _ = first.DiffID()
	if got, _ := second.DiffID(); got != want {
		t.Errorf("diff id %v, want %v", got, want)
	}
}

func TestLayerRefusals(t *testing.T) {
	tests := []struct {
		name    string
		entries []Entry
		want    string
	}{
		{"climbing", []Entry{{Path: "a/../../b"}}, `path "a/../../b": not below the root`},
		{"root", []Entry{{Path: "/"}}, `path "/": not below the root`},
		{"empty", []Entry{{}}, `path "": not below the root`},
		{"twice", []Entry{{Path: "a"}, {Path: "/a"}}, "a: given twice"},
		{"file as folder", []Entry{{Path: "a"}, {Path: "a/b"}}, "a/b: a is not a folder"},
		{"through a link", []Entry{{Path: "bin", Mode: fs.ModeSymlink, Link: "usr/bin"}, {Path: "bin/sh"}}, "bin/sh: bin is not a folder"},
		{"link without target", []Entry{{Path: "a", Mode: fs.ModeSymlink}}, "a: a symbolic link has a target and no content"},
		{"folder with content", []Entry{{Path: "a", Mode: fs.ModeDir, Body: []byte("x")}}, "a: a folder has neither target nor content"},
		{"hard link to nothing", []Entry{{Path: "a", Link: "b"}}, "a: hard link to b, which is no file of this layer"},
		{"two contents", []Entry{{Path: "a", Body: []byte("x"), Source: "y"}}, "a: both a body and a source"},
		{"device", []Entry{{Path: "a", Mode: fs.ModeDevice}}, "a: mode D---------: only files, folders and links"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Layer(tt.entries); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}
