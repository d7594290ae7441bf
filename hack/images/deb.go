package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"strings"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// dropped are the parts of Debian packages that serve people at a terminal or
// a running init system; copyright files stay, see keep.
var dropped = []string{
	"etc/cron.daily/", "etc/init.d/", "etc/update-motd.d/", "usr/games/", "usr/include/",
	"usr/lib/systemd/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/share/applications/",
	"usr/share/apport/", "usr/share/base-files/", "usr/share/bash-completion/", "usr/share/bug/",
	"usr/share/doc-base/", "usr/share/info/", "usr/share/initramfs-tools/", "usr/share/lintian/",
	"usr/share/locale/", "usr/share/man/", "usr/share/menu/", "usr/share/pixmaps/",
	"usr/share/zsh/", "usr/src/", "var/backups/", "var/local/", "var/lock/", "var/run/",
}

// keep says whether a path of a package belongs into an image.
func keep(p string, mode fs.FileMode) bool {
	for _, d := range dropped {
		if strings.HasPrefix(p+"/", d) {
			return false
		}
	}
	if doc, ok := strings.CutPrefix(p, "usr/share/doc/"); ok { // a link there shares another package's copyright file
		return path.Base(doc) == "copyright" || mode.Type() == fs.ModeSymlink && !strings.Contains(doc, "/")
	}
	return true
}

// merged gives the place of a package's path where bin, sbin and lib are links
// into usr, which is how Debian systems have been since 2023; the packages of
// that release still name the old places. The links themselves give "".
func merged(p string) string {
	first, rest, _ := strings.Cut(p, "/")
	switch first {
	case "bin", "sbin", "lib", "lib64":
		if rest == "" {
			return ""
		}
		return "usr/" + p
	}
	return p
}

// unpackDeb lists what a .deb holds, and adds its control stanza where image
// scanners look for it.
func unpackDeb(ctx context.Context, file string, p pkg) ([]oci.Entry, error) {
	control, err := output(ctx, ".", "dpkg-deb", "--field", file)
	if err != nil {
		return nil, err
	}
	entries := []oci.Entry{{Path: "var/lib/dpkg/status.d/" + p.Name, Mode: 0o644, Body: control}}
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	content, err := readTar(pipe)
	if _, drain := io.Copy(io.Discard, pipe); err == nil {
		err = drain
	}
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("package %s=%s: %w", p.Name, p.Version, err)
	}
	return append(entries, content...), nil
}

// readTar turns the archive of a package into entries of an image.
func readTar(r io.Reader) ([]oci.Entry, error) {
	var entries []oci.Entry
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		mode := h.FileInfo().Mode()
		place := merged(path.Clean(strings.TrimPrefix(h.Name, "./")))
		if place == "" || place == "." || !keep(place, mode) {
			continue
		}
		e := oci.Entry{Path: place, Mode: mode, UID: h.Uid, GID: h.Gid}
		switch h.Typeflag {
		case tar.TypeDir:
		case tar.TypeSymlink:
			e.Link = h.Linkname
		case tar.TypeLink:
			e.Link = merged(path.Clean(strings.TrimPrefix(h.Linkname, "./")))
		case tar.TypeReg:
			if e.Body, err = io.ReadAll(archive); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%s: entry of type %q", h.Name, h.Typeflag)
		}
		entries = append(entries, e)
	}
}

// overlay lays entries over others: of one path the last stands, except that a
// folder that several packages ship must be the same in all of them.
func overlay(layers ...[]oci.Entry) ([]oci.Entry, error) {
	var all []oci.Entry
	at := map[string]int{}
	for _, layer := range layers {
		for _, e := range layer {
			i, ok := at[e.Path]
			if !ok {
				at[e.Path] = len(all)
				all = append(all, e)
				continue
			}
			if have := all[i]; e.Mode.IsDir() && (have.Mode != e.Mode || have.UID != e.UID || have.GID != e.GID) {
				return nil, fmt.Errorf("%s: a folder with modes %v and %v", e.Path, have.Mode, e.Mode)
			}
			all[i] = e
		}
	}
	return all, nil
}
