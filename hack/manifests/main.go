// Command manifests renders what `kubectl apply -k` takes into build/manifests:
// a copy of manifests/base, the CRDs of the policy kinds out of the istio.io/api
// module, and a kustomization with the tags of the images and the injector's
// settings.
//
//	go run ./manifests --tag v0.1.0 --registry registry.example.com:5000
//
// It talks to no cluster. Start reading at render.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	root := flags.String("root", "..", "the repository")
	out := flags.String("out", "", "folder to write, replaced as a whole (default ROOT/build/manifests)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" {
		*out = filepath.Join(*root, "build", "manifests")
	}
	crds, err := moduleCRDs(*root)
	if err != nil {
		return err
	}
	files, err := render(input{
		base:     os.DirFS(filepath.Join(*root, "manifests", "base")),
		crds:     crds,
		tag:      *tag,
		registry: *registry,
	})
	if err != nil {
		return err
	}
	return replace(*out, files)
}

// moduleCRDs reads the CRDs that the istio.io/api module carries, in the version of
// the root's go.mod.
func moduleCRDs(root string) ([]byte, error) {
	const module = "istio.io/api"
	if _, err := goTool(root, "mod", "download", module); err != nil {
		return nil, err
	}
	dir, err := goTool(root, "list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "kubernetes", "customresourcedefinitions.gen.yaml"))
}

func goTool(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
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
