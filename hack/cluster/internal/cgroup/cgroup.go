// Package cgroup makes and removes the lab's one folder in each cgroup
// hierarchy, of version 1 or 2. It knows nothing of limits: the kubelet and runc
// set those below it.
//
// Start reading at [Hierarchies]; [Make] is called inside a node, [Remove] on
// the host.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Hierarchy is one mounted cgroup tree.
type Hierarchy struct {
	Dir     string // where it is mounted
	Unified bool   // version 2
	Cpuset  bool   // version 1 with the cpuset controller
}

// Hierarchies reads the mounted ones, each once, from the text of
// /proc/self/mountinfo.
func Hierarchies(mountinfo string) []Hierarchy {
	var all []Hierarchy
	for line := range strings.Lines(mountinfo) {
		mount, super, ok := strings.Cut(line, " - ")
		fields, supers := strings.Fields(mount), strings.Fields(super)
		if !ok || len(fields) < 5 || len(supers) < 3 {
			continue
		}
		h := Hierarchy{Dir: fields[4]}
		switch supers[0] {
		case "cgroup":
			h.Cpuset = slices.Contains(strings.Split(supers[2], ","), "cpuset")
		case "cgroup2":
			h.Unified = true
		default:
			continue
		}
		if !slices.ContainsFunc(all, func(o Hierarchy) bool { return o.Dir == h.Dir }) {
			all = append(all, h)
		}
	}
	return all
}

// Mounted returns the hierarchies of this process's mount namespace.
func Mounted() ([]Hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return Hierarchies(string(b)), nil
}

// Make makes a folder, given as an absolute path within the hierarchies, and
// one below it for each leaf, and moves this process into the first leaf.
// Where version 1 is mounted it is what containers use, and a version 2 tree
// beside it is left alone.
func Make(folder, leaf string) error {
	all, err := Mounted()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("no cgroup hierarchy is mounted")
	}
	use, prepare := slices.DeleteFunc(slices.Clone(all), func(h Hierarchy) bool { return h.Unified }), inherit
	if len(use) == 0 {
		use, prepare = all[:1], delegate
	}
	for _, h := range use {
		dir := h.Dir
		for name := range strings.SplitSeq(strings.Trim(folder, "/"), "/") {
			if err := prepare(h, dir, name); err != nil {
				return err
			}
			dir = filepath.Join(dir, name)
		}
		if err := prepare(h, dir, leaf); err != nil {
			return err
		}
		// Last, as version 2 allows processes in leaves only. "0" is the writer itself.
		if err := os.WriteFile(filepath.Join(dir, leaf, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// inherit makes parent/name in a version 1 hierarchy. A new cpuset is empty and
// takes no process before it has processors and memory.
func inherit(h Hierarchy, parent, name string) error {
	dir := filepath.Join(parent, name)
	if err := os.MkdirAll(dir, 0o755); err != nil || !h.Cpuset {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// delegate makes parent/name in the version 2 tree, with all controllers that
// the parent has.
func delegate(_ Hierarchy, parent, name string) error {
	b, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(b)) {
		if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("controller %s: %w", c, err)
		}
	}
	return os.MkdirAll(filepath.Join(parent, name), 0o755)
}

// Find returns the folders called name at the root of the hierarchies.
func Find(name string) ([]string, error) {
	all, err := Mounted()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, h := range all {
		dir := filepath.Join(h.Dir, name)
		if _, err := os.Stat(dir); err == nil {
			found = append(found, dir)
		}
	}
	return found, nil
}

// Remove removes the folder called name from every hierarchy, with all below
// it. A process that has just been killed holds its folder for a moment, so it
// tries again until ctx ends.
func Remove(ctx context.Context, name string) error {
	for {
		dirs, err := Find(name)
		if err != nil || len(dirs) == 0 {
			return err
		}
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, removeTree(dir))
		}
		if err = errors.Join(errs...); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// removeTree removes folders from the bottom up. The files in them are the
// kernel's and go with them.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
