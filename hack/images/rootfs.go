package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

// This file holds what maintainer scripts would have done, had they run.

// account is a line of passwd with the group of the same name and number.
type account struct {
	name string
	id   int
	home string
}

var (
	root       = account{"root", 0, "/root"}
	nobody     = account{"nobody", 65534, "/nonexistent"}
	istioProxy = account{"istio-proxy", 1337, "/"}
	// tcpdump becomes this user after it has opened the interface.
	tcpdumper = account{"tcpdump", 100, "/nonexistent"}
)

// accounts gives /etc/passwd and /etc/group with just these.
func accounts(users ...account) []oci.Entry {
	var passwd, group bytes.Buffer
	for _, u := range users {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::%s:/bin/sh\n", u.name, u.id, u.id, u.home)
		fmt.Fprintf(&group, "%s:x:%d:\n", u.name, u.id)
	}
	return []oci.Entry{
		{Path: "etc/group", Mode: 0o644, Body: group.Bytes()},
		{Path: "etc/passwd", Mode: 0o644, Body: passwd.Bytes()},
	}
}

// finishBase completes the base packages to a root: the usr-merge links, name
// lookups, accounts, and the bundle of certificate authorities in place of the
// single files it was made from.
func finishBase(packages []oci.Entry) ([]oci.Entry, error) {
	const authorities = "usr/share/ca-certificates/"
	var certificates []oci.Entry
	entries := slices.DeleteFunc(slices.Clone(packages), func(e oci.Entry) bool {
		if !strings.HasPrefix(e.Path, authorities) {
			return false
		}
		if strings.HasSuffix(e.Path, ".crt") {
			certificates = append(certificates, e)
		}
		return true
	})
	if len(certificates) == 0 {
		return nil, errors.New("no certificate authorities in the base packages")
	}
	slices.SortFunc(certificates, func(a, b oci.Entry) int { return strings.Compare(a.Path, b.Path) })
	var bundle bytes.Buffer
	for _, c := range certificates {
		bundle.Write(bytes.TrimSpace(c.Body))
		bundle.WriteByte('\n')
	}
	own := append(accounts(root, nobody),
		oci.Entry{Path: "etc/nsswitch.conf", Mode: 0o644, Body: []byte("passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n")},
		oci.Entry{Path: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Body: bundle.Bytes()},
		oci.Entry{Path: "var/lock", Mode: fs.ModeSymlink | 0o777, Link: "../run/lock"},
		oci.Entry{Path: "var/run", Mode: fs.ModeSymlink | 0o777, Link: "../run"},
	)
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		own = append(own, oci.Entry{Path: dir, Mode: fs.ModeSymlink | 0o777, Link: "usr/" + dir})
	}
	return overlay(entries, own)
}

// finishDebug lets the proxy's user run tcpdump, and only tcpdump, as root
// without a password. Debian's own PAM stack wants files that a maintainer
// script generates, so sudo gets one that asks nothing: who may do what is
// decided by sudoers alone.
func finishDebug(packages []oci.Entry) ([]oci.Entry, error) {
	pam := "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
	return overlay(packages, accounts(root, nobody, istioProxy, tcpdumper), []oci.Entry{
		{Path: "etc/pam.d/sudo", Mode: 0o644, Body: []byte(pam)},
		{Path: "etc/sudoers.d/istio-proxy", Mode: 0o440, Body: []byte("istio-proxy ALL=(root) NOPASSWD: /usr/bin/tcpdump\n")},
	})
}

// privileged lists the programs among entries that take their owner's or
// group's rights.
func privileged(entries []oci.Entry) []string {
	var paths []string
	for _, e := range entries {
		if e.Mode.IsRegular() && e.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			paths = append(paths, strings.TrimPrefix(e.Path, "/"))
		}
	}
	return paths
}

// checkPrivileged refuses programs that an image does not allow.
func checkPrivileged(found, allowed []string) error {
	for _, p := range found {
		if !slices.Contains(allowed, p) {
			return fmt.Errorf("%s: setuid or setgid, which this image does not allow", p)
		}
	}
	return nil
}
