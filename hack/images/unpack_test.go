package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/garrison-mesh/garrison/hack/internal/oci"
)

func zipFile(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, body := range files {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x.whl")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func describe(entries []oci.Entry) map[string]string {
	got := map[string]string{}
	for _, e := range entries {
		got[e.Path] = e.Mode.String() + " " + e.Link + string(e.Body)
	}
	return got
}

func TestUnpackWheel(t *testing.T) {
	entries, err := unpackWheel(zipFile(t, map[string]string{
		"tool/__init__.py":                      "code",
		"tool-1.data/scripts/helper":            "script",
		"tool-1.data/purelib/extra.py":          "extra",
		"tool-1.data/headers/tool.h":            "unwanted",
		"tool-1.dist-info/entry_points.txt":     "[other]\nx = y:z\n[console_scripts]\ntool = tool.main:run\n../climb = a:b\n",
		"tool/data/entry_points.txt":            "[console_scripts]\nnot = a:script\n",
		"tool-1.dist-info/licenses/LICENSE.txt": "words",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		site + "tool/__init__.py":                      "-rw-r--r-- code",
		site + "extra.py":                              "-rw-r--r-- extra",
		site + "tool/data/entry_points.txt":            "-rw-r--r-- [console_scripts]\nnot = a:script\n",
		site + "tool-1.dist-info/licenses/LICENSE.txt": "-rw-r--r-- words",
		site + "tool-1.dist-info/entry_points.txt":     "-rw-r--r-- [other]\nx = y:z\n[console_scripts]\ntool = tool.main:run\n../climb = a:b\n",
		scripts + "helper":                             "-rwxr-xr-x script",
		scripts + "tool":                               "-rwxr-xr-x #!/usr/bin/python3\nimport sys\nfrom tool.main import run\nsys.exit(run())\n",
	}
	if diff := cmp.Diff(want, describe(entries)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestUnpackWheelRefusesTraversal(t *testing.T) {
	for _, name := range []string{"../evil", "a/../../evil", "/etc/passwd", `..\evil`, "x-1.data/scripts/../../../evil", "a//b"} {
		entries, err := unpackWheel(zipFile(t, map[string]string{name: "x"}))
		if err == nil || !strings.Contains(err.Error(), "not a path inside a wheel") {
			t.Errorf("%q: entries %v, error %v", name, describe(entries), err)
		}
	}
}

func FuzzConsoleScripts(f *testing.F) {
	f.Add("[console_scripts]\ntool = tool.main:run\n")
	f.Add("[console_scripts]\n../x=a:b\n=:\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range consoleScripts(text) {
			if dir, _ := filepath.Split(e.Path); dir != scripts {
				t.Errorf("a script at %q", e.Path)
			}
		}
	})
}

func TestReadTar(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/sh", Typeflag: tar.TypeSymlink, Linkname: "dash", Mode: 0o777},
		{Name: "./lib/x/libc.so", Typeflag: tar.TypeReg, Mode: 0o755},
		{Name: "./sbin/hard", Typeflag: tar.TypeLink, Linkname: "./lib/x/libc.so", Mode: 0o755},
		{Name: "./usr/bin/sudo", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "./usr/share/man/man1/x.1", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./usr/share/doc/x/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/share/doc/x/changelog.gz", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./usr/share/doc/x/copyright", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./usr/share/doc/y", Typeflag: tar.TypeSymlink, Linkname: "x", Mode: 0o777},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := readTar(&b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr/bin/sh":                "Lrwxrwxrwx dash",
		"usr/lib/x/libc.so":         "-rwxr-xr-x ",
		"usr/sbin/hard":             "-rwxr-xr-x usr/lib/x/libc.so",
		"usr/bin/sudo":              "urwxr-xr-x ",
		"usr/share/doc/x/copyright": "-rw-r--r-- ",
		"usr/share/doc/y":           "Lrwxrwxrwx x",
	}
	if diff := cmp.Diff(want, describe(entries)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestReadTarRefusesDevices(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666}); err != nil {
		t.Fatal(err)
	}
	if _, err := readTar(&b); err == nil {
		t.Error("a device came through")
	}
}

func TestOverlay(t *testing.T) {
	dir := oci.Entry{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}
	got, err := overlay([]oci.Entry{dir, {Path: "f", Body: []byte("low")}}, []oci.Entry{dir, {Path: "f", Body: []byte("high")}})
	if err != nil || len(got) != 2 || string(got[1].Body) != "high" {
		t.Errorf("%v, %v", got, err)
	}
	plain := oci.Entry{Path: "tmp", Mode: fs.ModeDir | 0o755}
	if _, err := overlay([]oci.Entry{dir}, []oci.Entry{plain}); err == nil {
		t.Error("two packages disagree on a folder, and nobody says so")
	}
}
