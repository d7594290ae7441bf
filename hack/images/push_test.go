package main

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

func TestRewrite(t *testing.T) {
	for _, tt := range []struct{ ref, registry, want string }{
		{"docker.io/garrison/proxy:v1", "localhost:5000", "localhost:5000/garrison/proxy:v1"},
		{"docker.io/garrison/proxy:v1", "registry.example/team/", "registry.example/team/garrison/proxy:v1"},
		{"docker.io/kennethreitz/httpbin:latest", "localhost:5000", "localhost:5000/kennethreitz/httpbin:latest"},
	} {
		if got := rewrite(tt.ref, tt.registry); got != tt.want {
			t.Errorf("rewrite(%s, %s) = %s, want %s", tt.ref, tt.registry, got, tt.want)
		}
	}
}

func TestPush(t *testing.T) {
	layer, err := oci.Layer([]oci.Entry{{Path: "f", Body: []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := oci.Image(oci.Spec{Layers: []v1.Layer{layer}})
	if err != nil {
		t.Fatal(err)
	}
	layout := t.TempDir()
	if err := oci.WriteLayout(layout, []oci.Tagged{
		{Ref: "docker.io/garrison/proxy:v1", Image: img},
		{Ref: "docker.io/kennethreitz/httpbin:latest", Image: img},
	}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	holds := func(repo string) bool {
		ref, err := name.ParseReference(host+"/"+repo, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Get(ref)
		if err != nil {
			return false
		}
		want, _ := img.Digest()
		return got.Digest == want
	}

	var stdout bytes.Buffer
	if err := push(t.Context(), &stdout, pushing{layout: layout, registry: host + "/team", insecure: true}); err != nil {
		t.Fatal(err)
	}
	if !holds("team/garrison/proxy:v1") || holds("team/kennethreitz/httpbin:latest") {
		t.Error("without -apps: want the project's image and no other")
	}
	if !strings.HasPrefix(stdout.String(), host+"/team/garrison/proxy:v1  sha256:") {
		t.Errorf("printed %q", stdout.String())
	}
	if err := push(t.Context(), io.Discard, pushing{layout: layout, registry: host, apps: true, insecure: true}); err != nil {
		t.Fatal(err)
	}
	if !holds("garrison/proxy:v1") || !holds("kennethreitz/httpbin:latest") {
		t.Error("with -apps: want both")
	}
	if err := push(t.Context(), io.Discard, pushing{layout: t.TempDir(), registry: host}); err == nil {
		t.Error("an empty layout was pushed without a word")
	}
}
