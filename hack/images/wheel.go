package main

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// wheel is one Python package in one exact file.
type wheel struct{ Name, Version, SHA256 string }

const wheelHeader = `# Written by "go run ./images lock" in hack/; review the difference, then commit it.
`

// parseWheels reads a requirements file as printWheels writes it: each line
// pins one version and one file.
func parseWheels(text string) ([]wheel, error) {
	var wheels []wheel
	for i, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		name, version, pinned := strings.Cut(fields[0], "==")
		if len(fields) != 2 || !pinned || name == "" || version == "" {
			return nil, fmt.Errorf("line %d: %q, want name==version --hash=sha256:…", i+1, line)
		}
		sum, ok := strings.CutPrefix(fields[1], "--hash=sha256:")
		if !ok {
			return nil, fmt.Errorf("line %d: %q, want --hash=sha256:…", i+1, fields[1])
		}
		if err := checkSHA256(sum); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		wheels = append(wheels, wheel{name, version, sum})
	}
	return wheels, nil
}

func printWheels(wheels []wheel) string {
	wheels = slices.Clone(wheels)
	slices.SortFunc(wheels, func(a, b wheel) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	b.WriteString(wheelHeader)
	for _, w := range wheels {
		fmt.Fprintf(&b, "%s==%s --hash=sha256:%s\n", w.Name, w.Version, w.SHA256)
	}
	return b.String()
}

// pipTarget makes pip choose files for the images' Python, whichever runs pip.
func pipTarget() []string {
	args := []string{
		"--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp",
		"--abi", "cp311", "--abi", "abi3", "--abi", "none", "--platform", "any",
	}
	for _, glibc := range []string{"2_5", "2_12", "2_17", "2_24", "2_28", "2_31", "2_34", "2_35"} { // the base has 2.36
		args = append(args, "--platform", "manylinux_"+glibc+"_x86_64")
	}
	return append(args, "--platform", "manylinux2014_x86_64")
}

// wheelFiles gives the stored file of each wheel of a requirements file,
// fetching by pip, checked, what is not there yet.
func (w *workshop) wheelFiles(ctx context.Context, requirements string, wheels []wheel) ([]string, error) {
	store := filepath.Join(w.cache, "wheels")
	files := make([]string, len(wheels))
	complete := true
	for i, wh := range wheels {
		files[i] = filepath.Join(store, wh.SHA256+".whl")
		if _, err := os.Stat(files[i]); err != nil {
			complete = false
		}
	}
	if complete {
		return files, nil
	}
	if err := os.MkdirAll(store, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(store, ".download-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	args := append([]string{"-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", tmp, "-r", requirements}, pipTarget()...)
	if _, err := output(ctx, w.root, "python3", args...); err != nil {
		return nil, err
	}
	if err := file(tmp, store, ".whl"); err != nil {
		return nil, err
	}
	for i, f := range files {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("wheel %s==%s: pip brought another file than %s", wheels[i].Name, wheels[i].Version, wheels[i].SHA256)
		}
	}
	return files, nil
}

const (
	site    = "usr/local/lib/python3.11/dist-packages/" // on Debian's own search path
	scripts = "usr/local/bin/"
)

// unpackWheel lists what installing a wheel would put where, console scripts
// included; nothing is compiled and nothing is run.
func unpackWheel(file string) ([]oci.Entry, error) {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	var entries []oci.Entry
	for _, f := range archive.File {
		if !fs.ValidPath(strings.TrimSuffix(f.Name, "/")) || strings.Contains(f.Name, `\`) {
			return nil, fmt.Errorf("%q: not a path inside a wheel", f.Name)
		}
		place, mode := wheelPlace(f.Name)
		if f.FileInfo().IsDir() || place == "" {
			continue
		}
		if !f.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: mode %v in a wheel", f.Name, f.Mode())
		}
		body, err := readZip(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		entries = append(entries, oci.Entry{Path: place, Mode: mode, Body: body})
		if dir, base := path.Split(f.Name); base == "entry_points.txt" && strings.HasSuffix(dir, ".dist-info/") {
			entries = append(entries, consoleScripts(string(body))...)
		}
	}
	return entries, nil
}

// wheelPlace says where a file of a wheel belongs; "" means nowhere.
func wheelPlace(name string) (string, fs.FileMode) {
	first, rest, _ := strings.Cut(name, "/")
	if !strings.HasSuffix(first, ".data") {
		return site + name, 0o644
	}
	kind, rest, _ := strings.Cut(rest, "/")
	switch kind {
	case "purelib", "platlib":
		return site + rest, 0o644
	case "scripts":
		return scripts + rest, 0o755
	}
	return "", 0 // headers and data serve nobody in an image
}

// consoleScripts are the programs that an entry_points.txt asks for.
func consoleScripts(text string) []oci.Entry {
	var entries []oci.Entry
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		name, target, ok := strings.Cut(line, "=")
		module, function, callable := strings.Cut(strings.TrimSpace(target), ":")
		if section != "[console_scripts]" || !ok || !callable {
			continue
		}
		name = strings.TrimSpace(name)
		if strings.ContainsAny(name, "/") {
			continue
		}
		body := fmt.Sprintf("#!/usr/bin/python3\nimport sys\nfrom %s import %s\nsys.exit(%s())\n", module, function, function)
		entries = append(entries, oci.Entry{Path: scripts + name, Mode: 0o755, Body: []byte(body)})
	}
	return entries
}

func readZip(f *zip.File) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r)
	return body, errors.Join(err, r.Close())
}
