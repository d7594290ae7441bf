package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func someImage(t *testing.T, body string) v1.Image {
	t.Helper()
	l, err := Layer([]Entry{{Path: "app", Mode: 0o755, Body: []byte(body)}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := Image(Spec{
		Layers: []v1.Layer{l}, Entrypoint: []string{"/app"}, Env: []string{"A=b"},
		User: "65532", Labels: map[string]string{"k": "v"}, Architecture: "amd64",
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImage(t *testing.T) {
	img := someImage(t, "one")
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{Entrypoint: []string{"/app"}, Env: []string{"A=b"}, User: "65532", Labels: map[string]string{"k": "v"}}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if got := config.Platform().String(); got != "linux/amd64" {
		t.Errorf("platform %s", got)
	}
	first, _ := img.Digest()
	if again, _ := someImage(t, "one").Digest(); again != first {
		t.Errorf("digest %v, then %v", first, again)
	}
	if other, _ := someImage(t, "two").Digest(); other == first {
		t.Error("another body, the same digest")
	}
}

func TestLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	if got, err := ReadLayout(dir); err != nil || got != nil {
		t.Errorf("a missing layout holds %v, %v", got, err)
	}
	one, two := someImage(t, "one"), someImage(t, "two")
	write := func(images ...Tagged) {
		t.Helper()
		if err := WriteLayout(dir, images); err != nil {
			t.Fatal(err)
		}
	}
	write(Tagged{"docker.io/x/two:1", two}, Tagged{"docker.io/x/one:1", one})
	stored, err := ReadLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, s := range stored {
		refs = append(refs, s.Ref)
		if err := validate.Image(s.Image); err != nil {
			t.Errorf("%s: %v", s.Ref, err)
		}
	}
	if diff := cmp.Diff([]string{"docker.io/x/one:1", "docker.io/x/two:1"}, refs); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "index.json"))
	write(stored...) // a layout can be written over itself
	if after, _ := os.ReadFile(filepath.Join(dir, "index.json")); string(after) != string(before) {
		t.Errorf("index changed:\n%s", cmp.Diff(string(before), string(after)))
	}

	write(stored[0])
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	if len(blobs) != 3 { // layer, config, manifest
		t.Errorf("%d blobs for one image", len(blobs))
	}
	if err := WriteLayout(dir, []Tagged{{"a", one}, {"a", two}}); err == nil || err.Error() != "a: given twice" {
		t.Errorf("a reference given twice: %v", err)
	}
}
