package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const someSum = "0dd9b6bf7a0bd11af2d68a52ec44c2a223fa7c11f9104c36ce1047e1137d4a8f"

func TestLockRoundTrip(t *testing.T) {
	pkgs := []pkg{
		{"base", "curl", "7.88.1-10+deb12u15", "amd64", someSum},
		{"base", "zlib1g", "1:1.2.13.dfsg-1", "amd64", someSum},
		{"python", "media-types", "10.0.0", "all", someSum},
	}
	text := printLock([]pkg{pkgs[2], pkgs[1], pkgs[0]}) // sorted when printed
	got, err := parseLock(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pkgs, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if again := printLock(got); again != text {
		t.Errorf("printed again (-want +got):\n%s", cmp.Diff(text, again))
	}
}

// What is committed is what the program would print, so that a refresh shows
// only what changed.
func TestCommittedLocks(t *testing.T) {
	text, err := os.ReadFile("debian.lock")
	if err != nil {
		t.Fatal(err)
	}
	pkgs, err := parseLock(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(printLock(pkgs), string(text)); diff != "" {
		t.Errorf("debian.lock (-want +got):\n%s", diff)
	}
	sets := map[string]bool{}
	for _, p := range pkgs {
		sets[p.Set] = true
	}
	for _, s := range debianSets {
		if !sets[s.name] {
			t.Errorf("debian.lock: nothing in set %s", s.name)
		}
	}
	for _, s := range wheelSets {
		text, err := os.ReadFile("requirements/" + s.name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		wheels, err := parseWheels(string(text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(printWheels(wheels), string(text)); diff != "" {
			t.Errorf("requirements/%s.txt (-want +got):\n%s", s.name, diff)
		}
		for _, want := range s.want {
			if !strings.Contains(string(text), "\n"+want+" --hash=") {
				t.Errorf("requirements/%s.txt: not %s", s.name, want)
			}
		}
	}
}

func TestLockRefusals(t *testing.T) {
	for line, want := range map[string]string{
		"base curl 1 amd64":                                "line 1: 4 fields, want set, name, version, architecture, sha256",
		"base curl 1 amd64 beef":                           `line 1: sha256 "beef": not 64 lower-case hexadecimal digits`,
		"base -o 1 amd64 " + someSum:                       `line 1: package name "-o"`,
		"# fine\nbase x 1 all " + strings.ToUpper(someSum): `line 2: sha256 "` + strings.ToUpper(someSum) + `": not 64 lower-case hexadecimal digits`,
	} {
		if _, err := parseLock(line); err == nil || err.Error() != want {
			t.Errorf("%q: error %v, want %s", line, err, want)
		}
	}
	for line, want := range map[string]string{
		"flask":                             `line 1: "flask", want name==version --hash=sha256:…`,
		"flask>=3 --hash=sha256:" + someSum: `line 1: "flask>=3 --hash=sha256:` + someSum + `", want name==version --hash=sha256:…`,
		"flask==3 --hash=md5:aa":            `line 1: "--hash=md5:aa", want --hash=sha256:…`,
		"flask==3 --hash=sha256:aa":         `line 1: sha256 "aa": not 64 lower-case hexadecimal digits`,
	} {
		if _, err := parseWheels(line); err == nil || err.Error() != want {
			t.Errorf("%q: error %v, want %s", line, err, want)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add("base curl 7.88.1 amd64 " + someSum)
	f.Add("# comment\n\nbase curl")
	f.Fuzz(func(t *testing.T, text string) {
		pkgs, err := parseLock(text)
		if err != nil {
			return
		}
		printed := printLock(pkgs)
		again, err := parseLock(printed)
		if err != nil {
			t.Fatalf("own print refused: %v", err)
		}
		if got := printLock(again); got != printed {
			t.Errorf("not stable (-want +got):\n%s", cmp.Diff(printed, got))
		}
	})
}
