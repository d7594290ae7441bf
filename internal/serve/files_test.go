package serve

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// next waits for one of the calls.
func next(t *testing.T, seen <-chan string) string {
	t.Helper()
	select {
	case s := <-seen:
		return s
	case <-time.After(time.Minute):
		t.Fatal("nothing was told")
		return ""
	}
}

// until reads calls until one has seen want.
func until(t *testing.T, seen <-chan string, want string) {
	t.Helper()
	for got := next(t, seen); got != want; got = next(t, seen) {
		t.Logf("saw %q on the way to %q", got, want)
	}
}

// A Kubernetes volume changes by one swap of the link that all its files go through.
func TestFiles(t *testing.T) {
	volume, plain := t.TempDir(), t.TempDir()
	state := func(name, text string) {
		t.Helper()
		dir := filepath.Join(volume, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "key"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, filepath.Join(volume, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	state("..1", "one")
	if err := os.Symlink("..data/key", filepath.Join(volume, "key")); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			return "-"
		}
		return string(text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan string, 100), make(chan error, 1)
	go func() { // awaited at the end
		ended <- Files{Dirs: []string{volume, plain, filepath.Join(plain, "absent")}, Changed: func() {
			seen <- read(filepath.Join(volume, "key")) + " " + read(filepath.Join(plain, "cert"))
		}}.Run(ctx)
	}()
	until(t, seen, "one -")
	state("..2", "two")
	until(t, seen, "two -")
	if err := os.WriteFile(filepath.Join(plain, "cert"), []byte("cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, seen, "two cert")
	if err := os.Remove(filepath.Join(plain, "cert")); err != nil {
		t.Fatal(err)
	}
	until(t, seen, "two -")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Writes that follow in haste are told as one: nobody looks at the half of a pair.
func TestFilesSettle(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	seen, ended := make(chan string, 1000), make(chan error, 1)
	go func() { // awaited at the end
		ended <- Files{Dirs: []string{dir}, Changed: func() {
			entries, _ := os.ReadDir(dir)
			seen <- string(rune('0' + len(entries)))
		}}.Run(ctx)
	}()
	until(t, seen, "0")
	for _, name := range []string{"a", "b", "c", "d"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	until(t, seen, "4")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(seen); n > 3 {
		t.Errorf("told %d times more", n)
	}
}
