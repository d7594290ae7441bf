package main

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// pkg is one Debian package in one exact version.
type pkg struct {
	Set     string // the layer that it belongs to
	Name    string
	Version string
	Arch    string // Debian's word: amd64 or all
	SHA256  string // of the .deb, lower-case hexadecimal
}

const lockHeader = `# Debian packages of the images: set, name, version, architecture, sha256.
# Written by "go run ./images lock" in hack/; review the difference, then commit it.
`

// parseLock reads what printLock wrote.
func parseLock(text string) ([]pkg, error) {
	var pkgs []pkg
	for i, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 5 {
			return nil, fmt.Errorf("line %d: %d fields, want set, name, version, architecture, sha256", i+1, len(fields))
		}
		p := pkg{Set: fields[0], Name: fields[1], Version: fields[2], Arch: fields[3], SHA256: fields[4]}
		if err := checkSHA256(p.SHA256); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if strings.HasPrefix(p.Name, "-") { // it becomes an argument of apt-get
			return nil, fmt.Errorf("line %d: package name %q", i+1, p.Name)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs, nil
}

// printLock is the committed form: sorted by set and name.
func printLock(pkgs []pkg) string {
	pkgs = slices.Clone(pkgs)
	slices.SortFunc(pkgs, func(a, b pkg) int {
		return cmp.Or(strings.Compare(a.Set, b.Set), strings.Compare(a.Name, b.Name))
	})
	var b strings.Builder
	b.WriteString(lockHeader)
	for _, p := range pkgs {
		fmt.Fprintf(&b, "%s %s %s %s %s\n", p.Set, p.Name, p.Version, p.Arch, p.SHA256)
	}
	return b.String()
}

func checkSHA256(s string) error {
	if sum, err := hex.DecodeString(s); err != nil || len(sum) != 32 || s != strings.ToLower(s) {
		return fmt.Errorf("sha256 %q: not 64 lower-case hexadecimal digits", s)
	}
	return nil
}
