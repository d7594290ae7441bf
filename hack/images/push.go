package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// pushing says what goes where.
type pushing struct {
	layout   string
	registry string // host[:port][/path]
	apps     bool   // the tutorials' applications too
	insecure bool   // plain HTTP
}

// push copies the images of a layout to a registry, with the credentials that
// the user's container tools have for it.
func push(ctx context.Context, stdout io.Writer, p pushing) error {
	if p.registry == "" {
		return errors.New("push: which -registry?")
	}
	images, err := oci.ReadLayout(p.layout)
	if err != nil {
		return err
	}
	var options []name.Option
	if p.insecure {
		options = append(options, name.Insecure)
	}
	pushed := 0
	for _, i := range images {
		if !p.apps && !strings.HasPrefix(i.Ref, ours) {
			continue
		}
		target, err := name.ParseReference(rewrite(i.Ref, p.registry), options...)
		if err != nil {
			return err
		}
		if err := remote.Write(target, i.Image, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		digest, err := i.Image.Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s  %s\n", target, digest)
		pushed++
	}
	if pushed == 0 {
		return fmt.Errorf("%s: nothing to push; build first", p.layout)
	}
	return nil
}

// rewrite moves a reference to another registry: docker.io/garrison/proxy:v1
// becomes REGISTRY/garrison/proxy:v1.
func rewrite(ref, registry string) string {
	_, path, _ := strings.Cut(ref, "/")
	return strings.TrimRight(registry, "/") + "/" + path
}

// list prints what a layout holds.
func list(stdout io.Writer, layout string) error {
	images, err := oci.ReadLayout(layout)
	if err != nil {
		return err
	}
	for _, i := range images {
		digest, total, err := weigh(i.Image)
		if err != nil {
			return fmt.Errorf("%s: %w", i.Ref, err)
		}
		fmt.Fprintf(stdout, "%s  %s  %s\n", i.Ref, digest, size(total))
	}
	return nil
}
