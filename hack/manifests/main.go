// Command manifests renders what `kubectl apply -k` takes into build/manifests:
// a copy of manifests/base, the CRDs of the policy kinds out of the istio.io/api
// module, and a kustomization with the tags of the images and the injector's
// settings.
//
//	go -C hack run ./manifests --tag v0.1.0 --registry registry.example.com:5000
//
// It talks to no cluster. Start reading at render.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "manifests:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("manifests", flag.ContinueOnError)
	tag := flags.String("tag", "", "tag of Garrison's images (required)")
	registry := flags.String("registry", "", "registry that has them, as host[:port][/path]")
	out := flags.String("out", "", "folder to write, replaced as a whole (default build/manifests)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := repository()
	if err != nil {
		return err
	}
	if *out == "" {
		*out = filepath.Join(root, "build", "manifests")
	}
	crds, err := moduleCRDs(root)
	if err != nil {
		return err
	}
	files, err := render(input{
		base:     os.DirFS(filepath.Join(root, "manifests", "base")),
		crds:     crds,
		tag:      *tag,
		registry: *registry,
	})
	if err != nil {
		return err
	}
	return replace(*out, files)
}

// repository returns the closest folder above this one that has manifests/base.
func repository() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "manifests", "base")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s: no folder above it has manifests/base", start)
		}
	}
}

// moduleCRDs reads the CRDs that the istio.io/api module carries, in the version of
// the root's go.mod. It asks the go command that all scripts here use.
func moduleCRDs(root string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(root, "hack", "go"), "mod", "download", "-json", "istio.io/api")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	return os.ReadFile(filepath.Join(module.Dir, "kubernetes", "customresourcedefinitions.gen.yaml"))
}

// replace makes dir hold exactly these files.
func replace(dir string, files map[string][]byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
