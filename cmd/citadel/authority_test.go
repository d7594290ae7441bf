package main

import (
	"bytes"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// newKeyring returns one without an API server, over a fresh root and intermediate.
func newKeyring(t *testing.T, log *bytes.Buffer) *keyring {
	t.Helper()
	root, err := ca.NewRoot(ca.RootOptions{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	below, err := ca.DesiredIntermediate(root, nil, ca.IntermediateOptions{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	k := &keyring{
		log: slog.New(slog.NewTextHandler(log, nil)), due: make(chan struct{}, 1),
		material: ca.Material{Root: root, Intermediate: below, DomainChosen: true},
	}
	if k.authority, err = ca.Start(k.material, ca.Options{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	return k
}

// A Secret of the CA that is spoilt or gone changes nothing but the log, which says it
// once; a good one is followed, and what could not be verified before is looked at again.
func TestKeyringFollows(t *testing.T) {
	var log bytes.Buffer
	k := newKeyring(t, &log)
	looks := 0
	look := k.again(func(*corev1.Secret) { looks++ })
	look(&corev1.Secret{})
	before := k.authority.Bundle()
	good := k.material.Intermediate
	spoilt := good.DeepCopy()
	spoilt.Data[mesh.CACertKey] = []byte("hello")
	for _, s := range []*corev1.Secret{good, spoilt, spoilt, nil, good} {
		k.update(func(m *ca.Material) { m.Intermediate = s })
		if !bytes.Equal(k.authority.Bundle(), before) || k.authority.Ready(time.Now()) != nil {
			t.Fatal("the issuer changed")
		}
		if refused := k.authority.Status().Refused != ""; refused != (s != good) || refused != (len(k.notices()) > 0) {
			t.Errorf("refused %t, notices %q", refused, k.notices())
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors logged, want 2:\n%s", n, log.String())
	}
	if looks != 1 {
		t.Errorf("looked %d times before anything changed", looks)
	}
	next := newKeyring(t, new(bytes.Buffer)).material
	k.update(func(m *ca.Material) { m.Root = next.Root }) // comes first; the two do not fit
	if !bytes.Equal(k.authority.Bundle(), before) {
		t.Error("took a root that the intermediate is not of")
	}
	k.update(func(m *ca.Material) { m.Intermediate = next.Intermediate })
	if !bytes.Equal(k.authority.Bundle(), next.Root.Data[mesh.RootKey]) || looks != 2 {
		t.Errorf("did not follow, or looked %d times", looks)
	}
	select {
	case <-k.due:
	default:
		t.Error("the leader does not hear of it")
	}
}

// caFiles are a CA as a person would plug it in, made by the code that makes ours.
func caFiles(t *testing.T) map[string][]byte {
	t.Helper()
	m := newKeyring(t, new(bytes.Buffer)).material
	return map[string][]byte{
		"ca-cert.pem": m.Intermediate.Data[mesh.CACertKey], "ca-key.pem": m.Intermediate.Data[mesh.CAKeyKey],
		"cert-chain.pem": m.Intermediate.Data[mesh.CACertKey], "root-cert.pem": m.Root.Data[mesh.RootKey],
	}
}

func TestReadPluggedFiles(t *testing.T) {
	want := caFiles(t)
	flat, volume := t.TempDir(), t.TempDir()
	data := filepath.Join(volume, "..2026")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		for _, dir := range []string{flat, data} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink("..2026", filepath.Join(volume, "..data")); err != nil {
		t.Fatal(err)
	}
	named := map[string]string{}
	for name := range want {
		named[name] = filepath.Join(flat, name)
	}
	for name, k := range map[string]*keySettings{
		"directory": {dir: flat}, "volume": {dir: volume}, "files": {files: named},
	} {
		got := k.read()
		if !maps.EqualFunc(got.Files, want, bytes.Equal) || len(got.Unread) > 0 {
			t.Errorf("%s: %d files, unread %q", name, len(got.Files), got.Unread)
		}
		a, err := ca.Start(ca.Material{Plugged: got, DomainChosen: true}, ca.Options{}, time.Now())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if a.Status().Source != mesh.CAPlugged {
			t.Errorf("%s: %s", name, a.Status().Source)
		}
		if dirs := k.dirs(); len(dirs) != 1 {
			t.Errorf("%s: watches %v", name, dirs)
		}
	}
	named["ca-key.pem"] = filepath.Join(flat, "absent")
	if got := (&keySettings{files: named}).read(); len(got.Unread) != 1 || !strings.Contains(got.Unread[0], "absent") {
		t.Errorf("a file that was named and is not there: %q", got.Unread)
	}
	if got := (&keySettings{dir: filepath.Join(flat, "absent")}).read(); got == nil || len(got.Files) > 0 {
		t.Errorf("no directory: %+v, want a CA without files, which is refused", got)
	}
}

// The leader is there when an intermediate is due, however briefly it lives, and tries
// again in time.
func TestUntilTended(t *testing.T) {
	now := time.Now()
	of := func(due, ends time.Duration) ca.Status { return ca.Status{Renewal: now.Add(due), Ends: now.Add(ends)} }
	for name, c := range map[string]struct {
		status ca.Status
		want   time.Duration
	}{
		"no intermediate of ours":        {ca.Status{Ends: now.Add(time.Minute)}, time.Hour},
		"due in months":                  {of(1000*time.Hour, 2000*time.Hour), time.Hour},
		"due in a minute":                {of(time.Minute, 2*time.Minute), time.Minute + time.Second},
		"due now":                        {of(0, time.Minute), time.Second},
		"not renewed, months left":       {of(-time.Hour, 2000*time.Hour), time.Hour},
		"not renewed, half an hour left": {of(-time.Hour, 30*time.Minute), 3 * time.Minute},
		"ended":                          {of(-time.Hour, -time.Minute), time.Hour},
	} {
		if got := untilTended(c.status, now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
