package ledger

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files returns the paths in dir in the order of their names, and what they hold.
func files(t *testing.T, dir string) (names []string, texts [][]byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return names, texts
}

func openDir(t *testing.T, dir string, o Options) *Log {
	t.Helper()
	l, err := OpenDir(dir, o)
	if err == nil {
		err = l.Ready()
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t *testing.T, l *Log) Checkpoint {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, _ := l.Newest()
	return c
}

// Files follow each other, and each can be verified alone.
func TestRotation(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	o := Options{Replica: "a", Key: key, MaxFile: 2000}
	closeLog(t, openDir(t, dir, Options{Replica: "a.1", Key: key})) // its files are no business of a's
	var last Checkpoint
	for run := range 3 {
		l := openDir(t, dir, o)
		for i := range 20 {
			appendAll(t, l, entry(20*run+i))
		}
		last = closeLog(t, l)
	}
	_, texts := files(t, dir)
	texts = texts[:len(texts)-1]
	r := verify(t, VerifyOptions{Published: []Checkpoint{last}}, texts...)
	if expectWhole(t, r, 1); len(texts) < 5 || r.Chains[0].Issued != 60 || len(r.Chains[0].Runs) != 3 || r.Chains[0].Published != last.Seq {
		t.Errorf("%d files: %+v", len(texts), r.Chains[0])
	}
	for i, text := range texts {
		expectWhole(t, verify(t, VerifyOptions{Partial: true}, text), 1)
		if i > 0 && len(verify(t, VerifyOptions{}, slices.Delete(slices.Clone(texts), i-1, i)...).Breaks) == 0 {
			t.Errorf("file %d removed: not found", i-1)
		}
	}
}

// A restart goes on where the file ends, wherever that is, and no broken line is lost or
// taken for whole.
func TestRestart(t *testing.T) {
	key := newKey(t)
	dir := t.TempDir()
	l := openDir(t, dir, Options{Replica: "a", Key: key, NoSync: true})
	appendAll(t, l, entry(1), entry(2))
	closeLog(t, l)
	names, texts := files(t, dir)
	text := texts[0]
	for cut := range len(text) + 1 {
		near := text[max(cut-3, 0):min(cut+3, len(text))]
		if cut%11 != 0 && !bytes.Contains(near, []byte("\n")) && !bytes.Contains(near, []byte(lineStart[:3])) {
			continue // in the middle, one place is like another
		}
		if err := os.WriteFile(names[0], text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := openDir(t, dir, Options{Replica: "a", Key: key, NoSync: true})
		appendAll(t, l, entry(3))
		c := closeLog(t, l)
		_, after := files(t, dir)
		if !bytes.HasPrefix(after[0], text[:cut]) {
			t.Fatalf("cut after %d: what was there was changed", cut)
		}
		r := verify(t, VerifyOptions{Published: []Checkpoint{c}}, after...)
		expectWhole(t, r, 1)
		if whole := bytes.Count(text[:cut], []byte("\n")); t.Failed() || r.Chains[0].Last < uint64(whole)+3 || r.Chains[0].Last > uint64(whole)+4 {
			t.Fatalf("cut after %d: %+v\n%s", cut, r.Chains, after[0])
		}
	}
}

// What is not only a broken end is for somebody to look at.
func TestRestartAfterDamage(t *testing.T) {
	key := newKey(t)
	for name, damage := range map[string]func([]byte) []byte{
		"changed": func(b []byte) []byte { return bytes.Replace(b, []byte("cart"), []byte("card"), 1) },
		"removed": func(b []byte) []byte {
			return append(bytes.SplitAfter(b, []byte("\n"))[0], bytes.SplitAfter(b, []byte("\n"))[2]...)
		},
		"two logs":  func(b []byte) []byte { other, _ := sample(t, "b", key); return append(bytes.Clone(b), other...) },
		"no damage": func(b []byte) []byte { return b },
		"zeros":     func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 5000)...) },
		"text":      func([]byte) []byte { return []byte("x\ny") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := openDir(t, dir, Options{Replica: "a", Key: key})
			appendAll(t, l, entry(1), entry(2))
			closeLog(t, l)
			names, texts := files(t, dir)
			if err := os.WriteFile(names[0], damage(texts[0]), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := OpenDir(dir, Options{Replica: "a", Key: key})
			if mended := name == "no damage" || name == "zeros" || name == "text"; mended != (err == nil) {
				t.Fatal(err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), dir) {
					t.Errorf("%v: does not say where", err)
				}
				return
			}
			closeLog(t, l)
			closeLog(t, openDir(t, dir, Options{Replica: "a", Key: key})) // which finds the broken line closed off
			_, texts = files(t, dir)
			expectWhole(t, verify(t, VerifyOptions{}, texts...), 1)
		})
	}
}

// A directory that takes no new file keeps the full one growing.
func TestNoNewFile(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir, Options{Replica: "a", Key: newKey(t), MaxFile: 100})
	blocked := l.out.(*directory).name(2)
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, entry(1), entry(2))
	closeLog(t, l)
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	_, texts := files(t, dir)
	expectWhole(t, verify(t, VerifyOptions{}, texts...), 1)
	if _, err := OpenDir(filepath.Join(blocked, "none"), Options{Replica: "a", Key: newKey(t)}); err != nil {
		t.Errorf("a directory to be made: %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full here")
	}
	defer full.Close()
	never, err := New(full, Options{Replica: "a", Key: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(never.Append(entry(1)), never.Ready()); err == nil {
		t.Error("wrote to a full disk")
	}
}

func BenchmarkDirectory(b *testing.B) {
	for name, o := range map[string]Options{"sync": {}, "no sync": {NoSync: true}} {
		b.Run(name, func(b *testing.B) {
			o.Replica, o.Key = "a", newKey(b)
			l, err := OpenDir(b.TempDir(), o)
			if err != nil {
				b.Fatal(err)
			}
			bench(b, l)
		})
	}
}
