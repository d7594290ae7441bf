package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// lock resolves everything anew and writes debian.lock and requirements/.
func (w *workshop) lock(ctx context.Context) error {
	a, err := openApt(filepath.Join(w.cache, "apt"))
	if err != nil {
		return err
	}
	if err := a.update(ctx); err != nil {
		return err
	}
	pkgs, err := resolveDebian(ctx, a, debianSets)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.lockFile(), []byte(printLock(pkgs)), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(w.stdout, "debian.lock: %d packages\n", len(pkgs))
	for _, set := range wheelSets {
		wheels, err := resolveWheels(ctx, set.want)
		if err != nil {
			return fmt.Errorf("requirements/%s.txt: %w", set.name, err)
		}
		if err := os.WriteFile(w.requirements(set.name), []byte(printWheels(wheels)), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(w.stdout, "requirements/%s.txt: %d wheels\n", set.name, len(wheels))
	}
	return nil
}

// resolveDebian finds what each set needs. The first set lies under all the
// others, so that these hold only what they add to it.
func resolveDebian(ctx context.Context, a apt, sets []debianSet) ([]pkg, error) {
	var (
		all   []pkg
		below []string
	)
	for i, set := range sets {
		exact, err := a.closure(ctx, slices.Concat(sets[0].want, set.want))
		if err != nil {
			return nil, err
		}
		exact = slices.DeleteFunc(exact, func(e string) bool {
			name, _, _ := strings.Cut(e, "=")
			return slices.Contains(forScripts, name) || slices.Contains(below, e)
		})
		pkgs, err := a.show(ctx, exact...)
		if err != nil {
			return nil, err
		}
		if len(pkgs) != len(exact) {
			return nil, fmt.Errorf("set %s: asked for %d packages, shown %d", set.name, len(exact), len(pkgs))
		}
		for j := range pkgs {
			pkgs[j].Set = set.name
		}
		all = append(all, pkgs...)
		if i == 0 {
			below = exact
		}
	}
	return all, nil
}

// resolveWheels lets pip choose the newest versions that fit and takes note of
// what came.
func resolveWheels(ctx context.Context, want []string) ([]wheel, error) {
	tmp, err := os.MkdirTemp("", "garrison-wheels-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	args := append([]string{"-m", "pip", "download", "-q", "-d", tmp}, pipTarget()...)
	if _, err := output(ctx, ".", "python3", append(args, want...)...); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(tmp, "*.whl"))
	if err != nil {
		return nil, err
	}
	var wheels []wheel
	for _, f := range files {
		parts := strings.Split(filepath.Base(f), "-")
		if len(parts) < 5 {
			return nil, fmt.Errorf("pip brought a file %q", filepath.Base(f))
		}
		sum, err := sumFile(f)
		if err != nil {
			return nil, err
		}
		wheels = append(wheels, wheel{Name: strings.ReplaceAll(parts[0], "_", "-"), Version: parts[1], SHA256: sum})
	}
	return wheels, nil
}

func (w *workshop) lockFile() string { return filepath.Join(w.root, "hack", "images", "debian.lock") }

func (w *workshop) requirements(set string) string {
	return filepath.Join(w.root, "hack", "images", "requirements", set+".txt")
}

func (w *workshop) readLock() ([]pkg, error) {
	text, err := os.ReadFile(w.lockFile())
	if err != nil {
		return nil, err
	}
	pkgs, err := parseLock(string(text))
	if err != nil {
		return nil, fmt.Errorf("debian.lock: %w", err)
	}
	return pkgs, nil
}

func (w *workshop) readWheels(set string) ([]wheel, error) {
	text, err := os.ReadFile(w.requirements(set))
	if err != nil {
		return nil, err
	}
	wheels, err := parseWheels(string(text))
	if err != nil {
		return nil, fmt.Errorf("requirements/%s.txt: %w", set, err)
	}
	return wheels, nil
}
