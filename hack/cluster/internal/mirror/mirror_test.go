package mirror

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

func image(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// serve starts a mirror and returns it with its address.
func serve(t *testing.T) (*Mirror, string) {
	t.Helper()
	m, err := New(t.TempDir(), log.New(io.Discard, "", 0))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	return m, strings.TrimPrefix(s.URL, "http://")
}

func write(t *testing.T, dir string, images ...oci.Tagged) {
	t.Helper()
	if err := oci.WriteLayout(dir, images); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, m *Mirror, layout string, want int) {
	t.Helper()
	if n, err := m.Load(layout); err != nil || n != want {
		t.Fatalf("loaded %d, %v, want %d", n, err, want)
	}
}

func expect(t *testing.T, ref string, want v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Errorf("%s: %v", ref, err)
	}
	g, _ := got.Digest()
	if w, _ := want.Digest(); g != w {
		t.Errorf("%s is %v, want %v", ref, g, w)
	}
}

func TestLoad(t *testing.T) {
	m, addr := serve(t)
	dir := filepath.Join(t.TempDir(), "layout")
	load(t, m, dir, 0) // not made yet

	one, two := image(t), image(t)
	write(t, dir, oci.Tagged{Ref: "docker.io/library/couchdb:2.3.0", Image: one}, oci.Tagged{Ref: "kennethreitz/httpbin", Image: two})
	load(t, m, dir, 2)
	expect(t, addr+"/library/couchdb:2.3.0", one)
	expect(t, addr+"/kennethreitz/httpbin:latest", two)

	// The layout moves on; what was loaded stays whole until its name means something else.
	three := image(t)
	write(t, dir, oci.Tagged{Ref: "kennethreitz/httpbin", Image: three})
	expect(t, addr+"/kennethreitz/httpbin:latest", two)
	load(t, m, dir, 1)
	expect(t, addr+"/kennethreitz/httpbin:latest", three)
	expect(t, addr+"/library/couchdb:2.3.0", one)
}

func TestLoadImageOfSeveralPlatforms(t *testing.T) {
	m, addr := serve(t)
	child := image(t)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: child, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	named := layout.WithAnnotations(map[string]string{oci.RefAnnotation: "ghcr.io/a/b:c"})
	if err := path.AppendIndex(index, named); err != nil {
		t.Fatal(err)
	}
	load(t, m, dir, 1)
	expect(t, addr+"/a/b:c", child)
}

func TestLoadRefuses(t *testing.T) {
	m, _ := serve(t)
	for what, index := range map[string]string{
		"no JSON":        "{",
		"a bad name":     `{"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","annotations":{"` + oci.RefAnnotation + `":"UPPER//x"}}]}`,
		"a missing blob": `{"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","annotations":{"` + oci.RefAnnotation + `":"x"}}]}`,
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o644); err != nil {
			t.Fatal(err)
		}
		if n, err := m.Load(dir); err == nil {
			t.Errorf("%s: loaded %d", what, n)
		}
	}
}

func TestPush(t *testing.T) {
	_, addr := serve(t)
	img := image(t)
	ref, err := name.ParseReference(addr + "/garrison/injector:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	expect(t, ref.String(), img)
	if _, err := remote.Head(ref.Context().Tag("v2")); err == nil {
		t.Error("a tag that nobody pushed exists")
	}
}
