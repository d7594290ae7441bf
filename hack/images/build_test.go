package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// fixed is a recipe that counts how often it is cooked.
type fixed struct {
	files  []oci.Entry
	cooked *int
}

func (f fixed) inputs(context.Context, *workshop) ([]string, error) { return []string{"fixed"}, nil }

func (f fixed) entries(context.Context, *workshop) ([]oci.Entry, error) {
	*f.cooked++
	return f.files, nil
}

func TestSetuidIsRefused(t *testing.T) {
	planted := oci.Entry{Path: "/usr/bin/planted", Mode: 0o755 | fs.ModeSetuid}
	group := oci.Entry{Path: "usr/bin/group", Mode: 0o755 | fs.ModeSetgid}
	folder := oci.Entry{Path: "var/mail", Mode: fs.ModeDir | fs.ModeSetgid | 0o775} // no program
	tests := []struct {
		name    string
		files   []oci.Entry
		allowed []string
		want    string
	}{
		{"none", []oci.Entry{folder, {Path: "usr/bin/tool", Mode: 0o755}}, nil, ""},
		{"planted", []oci.Entry{planted}, nil, "usr/bin/planted: setuid or setgid, which this image does not allow"},
		{"group", []oci.Entry{group}, []string{"usr/bin/planted"}, "usr/bin/group: setuid or setgid, which this image does not allow"},
		{"allowed", []oci.Entry{planted}, []string{"usr/bin/planted"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &workshop{cache: t.TempDir()}
			var cooked int
			i := image{layers: []recipe{fixed{tt.files, &cooked}}, allowed: tt.allowed}
			for range 2 { // the second time from the cache, which must not forget
				_, err := w.image(t.Context(), i)
				if got := message(err); got != tt.want {
					t.Errorf("error %q, want %q", got, tt.want)
				}
			}
			if cooked != 1 {
				t.Errorf("made %d times, want once", cooked)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestServerLimit(t *testing.T) {
	root := repository(t)
	w := &workshop{root: root, cache: t.TempDir(), built: map[string]string{}}
	g := goProgram{module: "hack", pkg: "images/standin", place: "standin", limit: 1 << 20}
	if _, err := g.inputs(t.Context(), w); err == nil || !strings.Contains(err.Error(), "more than the 1048576 that a server may have") {
		t.Errorf("error %v", err)
	}
	if _, err := (goProgram{pkg: "cmd/nosuch"}).inputs(t.Context(), w); !errors.Is(err, errNoSource) {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestChoose(t *testing.T) {
	all := catalogue("v1")
	if got, err := choose(all, nil); err != nil || len(got) != len(all) {
		t.Errorf("%d of %d, %v", len(got), len(all), err)
	}
	got, err := choose(all, []string{"proxy", "docker.io/garrison/citadel:v1"})
	if err != nil || len(got) != 2 || got[0].ref != "docker.io/garrison/proxy:v1" || got[1].name() != "citadel" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := choose(all, []string{"pilots"}); err == nil || !strings.Contains(err.Error(), `no image "pilots"; there are injector, citadel, proxy`) {
		t.Errorf("error %v", err)
	}
}

// A program asked for by name must be there; otherwise it is left out with a
// word and the rest is built.
func TestMissingProgram(t *testing.T) {
	root := t.TempDir() // a tree without any program
	var stdout bytes.Buffer
	w := &workshop{root: root, cache: t.TempDir(), out: filepath.Join(root, "layout"), tag: "v1", stdout: &stdout, warn: io.Discard}
	if err := w.build(t.Context(), []string{"injector"}); !errors.Is(err, errNoSource) {
		t.Errorf("by name: %v", err)
	}
	if err := w.build(t.Context(), nil); errors.Is(err, errNoSource) {
		t.Errorf("all: %v", err)
	}
	if !strings.Contains(stdout.String(), "docker.io/garrison/injector:v1  left out: cmd/injector: no such program in this tree") {
		t.Errorf("printed %q", stdout.String())
	}
}

// The same lock gives the same images in another folder, from other caches,
// under another umask.
func TestBuildIsReproducible(t *testing.T) {
	packages := stored(t)
	var digests []v1.Hash
	for _, umask := range []int{0o022, 0o077} {
		func() {
			defer syscall.Umask(syscall.Umask(umask))
			dir := t.TempDir()
			for _, sub := range []string{"debs", "wheels"} {
				if err := os.Symlink(filepath.Join(packages, sub), filepath.Join(dir, sub)); err != nil {
					t.Fatal(err)
				}
			}
			w := &workshop{root: repository(t), cache: dir, out: filepath.Join(dir, "layout"), tag: "v1", stdout: io.Discard, warn: io.Discard}
			if err := w.build(t.Context(), []string{"httpbin", "couchdb"}); err != nil {
				t.Fatal(err)
			}
			images, err := oci.ReadLayout(w.out)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range images {
				digest, err := i.Image.Digest()
				if err != nil {
					t.Fatal(err)
				}
				digests = append(digests, digest)
			}
		}()
	}
	if len(digests) != 4 || digests[0] != digests[2] || digests[1] != digests[3] {
		t.Errorf("digests %v, want two pairs", digests)
	}
}

// stored is the cache of packages, if every locked one is in it.
func stored(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("needs a cache folder:", err)
	}
	w := &workshop{root: repository(t), cache: filepath.Join(cache, "garrison")}
	pkgs, err := w.readLock()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pkgs {
		if _, err := os.Stat(w.debFile(p)); err != nil {
			t.Skipf("needs the packages of debian.lock in the cache (go run ./images build): %s is missing", p.Name)
		}
	}
	return w.cache
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestReplaceGone(t *testing.T) {
	other := strings.Repeat("b", 64)
	curl, grep := pkg{"base", "curl", "1", "amd64", someSum}, pkg{"base", "grep", "1", "amd64", someSum}
	unset := func(p pkg, version, sum string) pkg { p.Set, p.Version, p.SHA256 = "", version, sum; return p }
	tests := []struct {
		name         string
		missing      []pkg
		all, current []pkg
		taken, gone  []pkg
		want         string
	}{
		{name: "nothing missing", taken: []pkg{curl, grep}},
		{name: "still there beside a newer one", missing: []pkg{grep},
			all:     []pkg{unset(grep, "2", other), unset(grep, "1", someSum)},
			current: []pkg{unset(grep, "2", other)}, taken: []pkg{curl, grep}},
		{name: "gone", missing: []pkg{grep},
			all: []pkg{unset(grep, "2", other)}, current: []pkg{unset(grep, "2", other)},
			taken: []pkg{curl, {"base", "grep", "2", "amd64", other}}, gone: []pkg{grep}},
		{name: "other bytes", missing: []pkg{grep}, all: []pkg{unset(grep, "1", other)},
			want: "package grep=1: the archive has it with checksum " + other + ", debian.lock with " + someSum},
		{name: "unknown", missing: []pkg{grep}, all: []pkg{unset(curl, "1", someSum)},
			want: "package grep: the archive has neither 1 nor another version for Debian bookworm"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			taken, gone, err := replaceGone([]pkg{curl, grep}, tt.missing, tt.all, tt.current)
			if message(err) != tt.want {
				t.Errorf("error %q, want %q", message(err), tt.want)
			}
			if diff := cmp.Diff([][]pkg{tt.taken, tt.gone}, [][]pkg{taken, gone}); diff != "" {
				t.Errorf("taken and gone (-want +got):\n%s", diff)
			}
		})
	}
}
