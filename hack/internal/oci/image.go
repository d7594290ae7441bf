package oci

import (
	"maps"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what an image is made of and how it is started.
type Spec struct {
	Layers          []v1.Layer // lowest first
	Entrypoint, Cmd []string
	Env             []string // "NAME=value"
	User            string   // "uid", "uid:gid" or a name; empty means root
	WorkingDir      string
	Labels          map[string]string
	Architecture    string // GOARCH; empty means that of the building toolchain
}

// Image puts the layers of s together. It is an OCI image for Linux whose
// digest depends on s alone.
func Image(s Spec) (v1.Image, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	history := v1.History{Created: v1.Time{Time: epoch()}, CreatedBy: "garrison"}
	adds := make([]mutate.Addendum, 0, len(s.Layers))
	for _, l := range s.Layers {
		adds = append(adds, mutate.Addendum{Layer: l, History: history, MediaType: types.OCILayer})
	}
	img, err := mutate.Append(base, adds...)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", s.Architecture
	if config.Architecture == "" {
		config.Architecture = runtime.GOARCH
	}
	config.Created = v1.Time{Time: epoch()}
	config.Config = v1.Config{
		Entrypoint: s.Entrypoint, Cmd: s.Cmd, Env: s.Env, User: s.User,
		WorkingDir: s.WorkingDir, Labels: maps.Clone(s.Labels),
	}
	return mutate.ConfigFile(img, config)
}
