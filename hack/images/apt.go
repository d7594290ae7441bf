package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// debianRelease is the only release that packages may come from; whatever else
// the host's apt knows is pinned away.
const debianRelease = "bookworm"

// apt asks the host's apt, with the host's sources but with a state of its own:
// nothing counts as installed, and the host's package lists stay untouched.
type apt struct{ dir string }

func openApt(dir string) (apt, error) {
	for _, sub := range []string{"lists/partial", "archives/partial", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return apt{}, err
		}
	}
	pins := "Package: *\nPin: release o=Debian, n=" + debianRelease + "*\nPin-Priority: 500\n\n" +
		"Package: *\nPin: release *\nPin-Priority: -1\n"
	return apt{dir}, errors.Join(
		os.WriteFile(filepath.Join(dir, "status"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "preferences"), []byte(pins), 0o644))
}

func (a apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	options := []string{
		"-q", "-o", "Dir::State=" + a.dir, "-o", "Dir::State::status=" + filepath.Join(a.dir, "status"),
		"-o", "Dir::Cache=" + a.dir, "-o", "Dir::Etc::preferences=" + filepath.Join(a.dir, "preferences"),
		"-o", "Dir::Etc::preferencesparts=" + filepath.Join(a.dir, "none"), "-o", "APT::Sandbox::User=root",
		"-o", "APT::Architecture=" + architecture, "-o", "APT::Install-Recommends=false",
	}
	return output(ctx, dir, program, append(slices.Clip(args), options...)...) // args first: an error quotes them
}

// update fetches the package lists.
func (a apt) update(ctx context.Context) error {
	_, err := a.run(ctx, a.dir, "apt-get", "update")
	return err
}

// closure lists the packages, by name=version, that installing names into an
// empty system would bring.
func (a apt) closure(ctx context.Context, names []string) ([]string, error) {
	out, err := a.run(ctx, a.dir, "apt-get", append([]string{"-qq", "--print-uris", "install"}, names...)...)
	if err != nil {
		return nil, err
	}
	var exact []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line) // 'address' name_version_arch.deb size hash
		if len(fields) < 2 {
			continue
		}
		parts := strings.Split(fields[1], "_")
		if len(parts) != 3 {
			return nil, fmt.Errorf("apt-get named a file %q", fields[1])
		}
		exact = append(exact, parts[0]+"="+strings.ReplaceAll(parts[1], "%3a", ":"))
	}
	return exact, nil
}

// show looks packages up, each a name or name=version: the version that apt
// would install, or with "--all-versions" among the names every one. What the
// archive does not have is left out.
func (a apt) show(ctx context.Context, names ...string) ([]pkg, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", append([]string{"--no-all-versions", "show"}, names...)...)
	if err != nil {
		return nil, err
	}
	var pkgs []pkg
	for stanza := range strings.SplitSeq(string(out), "\n\n") {
		p := pkg{Name: field(stanza, "Package"), Version: field(stanza, "Version"), Arch: field(stanza, "Architecture"), SHA256: field(stanza, "SHA256")}
		if p.Name == "" {
			continue
		}
		if err := checkSHA256(p.SHA256); err != nil {
			return nil, fmt.Errorf("package %s: %w", p.Name, err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs, nil
}

// field reads a one-line field of a control stanza.
func field(stanza, name string) string {
	for line := range strings.Lines(stanza) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// debs gives the .deb of each package, from the store or through apt, checked.
// Versions that the archive has dropped since the lock was written are replaced
// by its current ones, with a warning: a fresh machine can still build, though
// not the same bytes. It returns what it took in place of what was asked.
func (w *workshop) debs(ctx context.Context, locked []pkg) ([]pkg, error) {
	var missing []pkg
	for _, p := range locked {
		if _, err := os.Stat(w.debFile(p)); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return locked, nil
	}
	a, err := openApt(filepath.Join(w.cache, "apt"))
	if err != nil {
		return nil, err
	}
	if w.download(ctx, a, missing) == nil {
		return locked, nil
	}
	// Our lists are absent or older than the archive. Only now ask for new ones.
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	taken, err := w.replaceGone(ctx, a, locked, missing)
	if err != nil {
		return nil, err
	}
	missing = slices.DeleteFunc(slices.Clone(taken), func(p pkg) bool {
		_, err := os.Stat(w.debFile(p))
		return err == nil
	})
	return taken, w.download(ctx, a, missing)
}

// replaceGone swaps those of the missing packages that the archive no longer
// has for the versions that it has now.
func (w *workshop) replaceGone(ctx context.Context, a apt, locked, missing []pkg) ([]pkg, error) {
	names := make([]string, len(missing))
	for i, p := range missing {
		names[i] = p.Name
	}
	all, err := a.show(ctx, append([]string{"--all-versions"}, names...)...)
	if err != nil {
		return nil, err
	}
	current, err := a.show(ctx, names...)
	if err != nil {
		return nil, err
	}
	taken, gone, err := replaceGone(locked, missing, all, current)
	for _, p := range gone {
		fmt.Fprintf(w.warn, "WARNING: debian.lock is stale: %s %s is gone from the archive, taking another version; bytes will differ. Run: go run ./images lock\n", p.Name, p.Version)
	}
	return taken, err
}

// replaceGone decides, knowing all versions in the archive and the current
// ones, what to take for the locked packages, and tells which were gone. A
// version whose bytes changed is not gone: somebody tampered with the archive
// or with the lock.
func replaceGone(locked, missing, all, current []pkg) (taken, gone []pkg, err error) {
	taken = slices.Clone(locked)
	for i, p := range taken {
		if !slices.Contains(missing, p) {
			continue
		}
		same := func(q pkg) bool { return q.Name == p.Name && q.Version == p.Version }
		if at := slices.IndexFunc(all, same); at >= 0 {
			if all[at].SHA256 != p.SHA256 {
				return nil, nil, fmt.Errorf("package %s=%s: the archive has it with checksum %s, debian.lock with %s", p.Name, p.Version, all[at].SHA256, p.SHA256)
			}
			continue
		}
		at := slices.IndexFunc(current, func(q pkg) bool { return q.Name == p.Name })
		if at < 0 {
			return nil, nil, fmt.Errorf("package %s: the archive has neither %s nor another version for Debian %s", p.Name, p.Version, debianRelease)
		}
		taken[i] = current[at]
		taken[i].Set = p.Set
		gone = append(gone, p)
	}
	return taken, gone, nil
}

// download fetches packages by apt and files them under their checksums.
func (w *workshop) download(ctx context.Context, a apt, pkgs []pkg) error {
	if len(pkgs) == 0 {
		return nil
	}
	store := filepath.Join(w.cache, "debs")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(store, ".download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	args := []string{"-qq", "download"}
	for _, p := range pkgs {
		args = append(args, p.Name+"="+p.Version)
	}
	if _, err := a.run(ctx, tmp, "apt-get", args...); err != nil {
		return err
	}
	if err := file(tmp, store, ".deb"); err != nil {
		return err
	}
	for _, p := range pkgs {
		if _, err := os.Stat(w.debFile(p)); err != nil {
			return fmt.Errorf("package %s=%s: what apt-get brought has another checksum than %s", p.Name, p.Version, p.SHA256)
		}
	}
	return nil
}

func (w *workshop) debFile(p pkg) string {
	return filepath.Join(w.cache, "debs", p.SHA256+".deb")
}

// file moves each file with the suffix from one folder into a store, under its
// checksum: from then on the name is the check.
func file(from, store, suffix string) error {
	files, err := filepath.Glob(filepath.Join(from, "*"+suffix))
	if err != nil {
		return err
	}
	for _, f := range files {
		sum, err := sumFile(f)
		if err != nil {
			return err
		}
		if err := os.Rename(f, filepath.Join(store, sum+suffix)); err != nil {
			return err
		}
	}
	return nil
}

// sumFile is the SHA-256 of a file in hexadecimal.
func sumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
