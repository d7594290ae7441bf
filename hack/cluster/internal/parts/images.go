package parts

import (
	"fmt"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// writeImages makes the images of programs that run in pods: a static binary and
// nothing else.
func writeImages(dir string, programs, dirs map[string]string) error {
	var images []oci.Tagged
	for ref, name := range programs {
		img, err := programImage(filepath.Join(dirs[name], name))
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		images = append(images, oci.Tagged{Ref: ref, Image: img})
	}
	return oci.WriteLayout(dir, images)
}

func programImage(program string) (v1.Image, error) {
	const path = "/program"
	layer, err := oci.Layer([]oci.Entry{{Path: path, Mode: 0o755, Source: program}})
	if err != nil {
		return nil, err
	}
	return oci.Image(oci.Spec{Layers: []v1.Layer{layer}, Entrypoint: []string{path}})
}
