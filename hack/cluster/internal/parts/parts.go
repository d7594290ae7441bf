// Package parts builds the programs that a cluster of the lab is made of, each
// from its own Go module below hack/cluster/parts, into the user's cache folder:
// once for each content of that module, its flags and version of Go.
//
// Versions are pinned by the go.mod and go.sum files and nowhere else. Start
// reading at [Builder.Build].
package parts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/settings"
)

// keyLength is how many hexadecimal digits of a part's hash name its folder.
const keyLength = 16

// part is one module and what is built from it; or images of earlier parts.
type part struct {
	name     string
	packages []string
	ldflags  string
	tags     string
	cgo      bool
	images   map[string]string // reference of the image to name of the part: a single program of that name
}

func all() []part {
	const (
		version = " -X k8s.io/component-base/version."
		cmd     = "github.com/containerd/containerd/v2/cmd/"
		plugin  = "github.com/containernetworking/plugins/plugins/"
	)
	return []part{
		{name: "runc", packages: []string{"github.com/opencontainers/runc"}, cgo: true,
			tags: "netgo osusergo seccomp", ldflags: " -extldflags -static"},
		{name: "cni", packages: []string{plugin + "main/bridge", plugin + "main/loopback", plugin + "ipam/host-local", plugin + "meta/portmap"}},
		{name: "pause", packages: []string{"."}},
		{name: "coredns", packages: []string{"."}},
		{name: "containerd", packages: []string{cmd + "containerd", cmd + "containerd-shim-runc-v2", cmd + "ctr"}},
		{name: "images", images: map[string]string{settings.PauseImage: "pause", settings.CoreDNSImage: "coredns"}},
		// kubectl refuses to talk to a server whose version it cannot read.
		{name: "kubernetes", packages: []string{"."}, ldflags: version + "gitVersion=v1.36.3" +
			version + "gitMajor=1" + version + "gitMinor=36" + version + "gitTreeState=clean" +
			version + "gitCommit=module" + version + "buildDate=2026-01-01T00:00:00Z"},
	}
}

// Builder builds parts.
type Builder struct {
	Source string    // the folder of modules
	Cache  string    // parts are kept in <Cache>/<name>-<key>
	Go     string    // the go command
	Log    io.Writer // a line for each part that is built
}

// Build builds the parts that are missing and says where all of them are.
func (b Builder) Build(ctx context.Context) (settings.Parts, error) {
	dirs, err := b.dirs(ctx)
	if err != nil {
		return settings.Parts{}, err
	}
	for _, p := range all() {
		if err := b.build(ctx, p, dirs); err != nil {
			return settings.Parts{}, err
		}
	}
	return located(dirs), nil
}

// Kubernetes builds the one part that needs no C compiler and no root to be of
// use, if it is missing, and returns its path.
func (b Builder) Kubernetes(ctx context.Context) (string, error) {
	dirs, err := b.dirs(ctx)
	if err != nil {
		return "", err
	}
	for _, p := range all() {
		if p.name == "kubernetes" {
			err = b.build(ctx, p, dirs)
		}
	}
	return located(dirs).Kubernetes, err
}

// Missing returns the names of the parts that have not been built.
func (b Builder) Missing(ctx context.Context) ([]string, error) {
	dirs, err := b.dirs(ctx)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, p := range all() {
		if _, err := os.Stat(dirs[p.name]); err != nil {
			missing = append(missing, p.name)
		}
	}
	return missing, nil
}

// dirs returns the folder of each part, by name.
func (b Builder) dirs(ctx context.Context) (map[string]string, error) {
	version, err := b.version(ctx)
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for _, p := range all() {
		key, err := p.key(filepath.Join(b.Source, p.name), version, dirs)
		if err != nil {
			return nil, fmt.Errorf("part %s: %w", p.name, err)
		}
		dirs[p.name] = filepath.Join(b.Cache, p.name+"-"+key)
	}
	return dirs, nil
}

func located(dirs map[string]string) settings.Parts {
	return settings.Parts{
		Kubernetes: filepath.Join(dirs["kubernetes"], "kubernetes"),
		Containerd: dirs["containerd"],
		Runc:       filepath.Join(dirs["runc"], "runc"),
		CNI:        dirs["cni"],
		Images:     dirs["images"],
	}
}

// build fills a folder of its own and renames it, so that a part is there whole
// or not at all.
func (b Builder) build(ctx context.Context, p part, dirs map[string]string) error {
	dir := dirs[p.name]
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(b.Cache, ".building-"+p.name+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	start := time.Now()
	fmt.Fprintf(b.Log, "building %s\n", p.name)
	if len(p.images) > 0 {
		err = writeImages(tmp, p.images, dirs)
	} else {
		err = b.compile(ctx, p, tmp)
	}
	if err != nil {
		return fmt.Errorf("part %s: %w", p.name, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // MkdirTemp makes it private
		return err
	}
	// Somebody else may have been first; then theirs is as good.
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	fmt.Fprintf(b.Log, "built %s in %.0f s\n", p.name, time.Since(start).Seconds())
	return nil
}

func (b Builder) compile(ctx context.Context, p part, dir string) error {
	cmd := b.command(ctx, filepath.Join(b.Source, p.name), append(p.args(), append([]string{"-o", dir + "/"}, p.packages...)...)...)
	if p.cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// args is the start of the command line; it is part of the key.
func (p part) args() []string {
	return []string{"build", "-trimpath", "-tags", p.tags, "-ldflags", "-s -w" + p.ldflags}
}

// command runs go apart from the caller's own settings and workspace: what a
// part is made of must be what its key says.
func (b Builder) command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.Go, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off", "CGO_ENABLED=0")
	return cmd
}

func (b Builder) version(ctx context.Context) (string, error) {
	out, err := b.command(ctx, b.Source, "env", "GOVERSION", "GOOS", "GOARCH").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return string(out), nil
}

// key names the content of a part: its module, flags and compiler, or what its
// images are made of.
func (p part) key(module, version string, dirs map[string]string) (string, error) {
	inputs := append(append([]string{version}, p.args()...), p.packages...)
	if len(p.images) > 0 {
		for _, ref := range slices.Sorted(maps.Keys(p.images)) {
			inputs = append(inputs, ref, filepath.Base(dirs[p.images[ref]]))
		}
		return hash(inputs...), nil
	}
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		inputs = append(inputs, strings.TrimPrefix(path, module), string(b))
		return err
	})
	return hash(inputs...), err
}

// hash is not fooled by where one input ends and the next begins.
func hash(inputs ...string) string {
	h := sha256.New()
	for _, s := range inputs {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))[:keyLength]
}
