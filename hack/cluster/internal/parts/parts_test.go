package parts

import (
	"os"
	"path/filepath"
	"testing"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// A part's key follows everything that its bytes depend on, and nothing else.
func TestKey(t *testing.T) {
	module := t.TempDir()
	write(t, filepath.Join(module, "go.mod"), "module x\n")
	write(t, filepath.Join(module, "main.go"), "package main\n")
	p := part{name: "x", packages: []string{"."}}
	key := func(p part, version string) string {
		t.Helper()
		k, err := p.key(module, version, map[string]string{"x": "/cache/x-1", "y": "/cache/y-1"})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key(p, "go1")
	seen := map[string]string{first: "itself"}
	differs := func(what, k string) {
		t.Helper()
		if was, ok := seen[k]; ok {
			t.Errorf("%s has the key of %s", what, was)
		}
		seen[k] = what
	}
	if again := key(p, "go1"); again != first {
		t.Errorf("%s, then %s", first, again)
	}
	differs("another Go", key(p, "go2"))
	differs("other flags", key(part{name: "x", packages: []string{"."}, ldflags: " -X a=b"}, "go1"))
	differs("other tags", key(part{name: "x", packages: []string{"."}, tags: "t"}, "go1"))
	differs("other packages", key(part{name: "x", packages: []string{"./a"}}, "go1"))
	differs("images of x", key(part{images: map[string]string{"ref": "x"}}, "go1"))
	differs("images of y", key(part{images: map[string]string{"ref": "y"}}, "go1"))
	write(t, filepath.Join(module, "main.go"), "package main // changed\n")
	differs("another source", key(p, "go1"))
	write(t, filepath.Join(module, "more.go"), "package main\n")
	differs("one source more", key(p, "go1"))
	if hash("ab", "c") == hash("a", "bc") {
		t.Error("the border between inputs does not count")
	}
}

// With a Go that fails, nothing is left that looks like a part; with one that
// works, the second build starts nothing.
func TestBuild(t *testing.T) {
	dir := t.TempDir()
	b := Builder{Source: dir, Cache: filepath.Join(dir, "cache"), Go: filepath.Join(dir, "go"), Log: t.Output()}
	for _, p := range all() {
		write(t, filepath.Join(dir, p.name, "go.mod"), "module x\n")
	}
	write(t, b.Go, "#!/bin/sh\n[ $1 = env ] && echo go1\n[ $1 = env ]\n")
	if _, err := b.Kubernetes(t.Context()); err == nil {
		t.Fatal("built with a Go that fails")
	}
	missing, err := b.Missing(t.Context())
	if err != nil || len(missing) != len(all()) {
		t.Fatalf("missing %v, %v", missing, err)
	}
	if left, err := os.ReadDir(b.Cache); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}

	write(t, b.Go, `#!/bin/sh
[ "$1" = env ] && { echo go1; exit; }
echo build >> `+dir+`/calls
while [ "$1" != -o ]; do shift; done
echo program > $2$(basename $PWD)
`)
	for range 2 {
		parts, err := b.Build(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(parts.Kubernetes); err != nil || string(got) != "program\n" {
			t.Errorf("kubernetes is %q, %v", got, err)
		}
		if _, err := os.Stat(filepath.Join(parts.Images, "index.json")); err != nil {
			t.Error(err)
		}
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if want := len("build\n") * (len(all()) - 1); err != nil || len(calls) != want { // images are not compiled
		t.Errorf("called %d times, %v", len(calls)/len("build\n"), err)
	}
	if missing, err := b.Missing(t.Context()); err != nil || len(missing) > 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
}
