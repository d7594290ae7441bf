package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// FileSuffix ends the names of files in a directory: replica, number of the first
// record, suffix.
const FileSuffix = ".jsonl"

// directory is a destination of files that grow to a size.
type directory struct {
	path, replica string
	file          *os.File
	size, limit   int64
	most          int64
	sync          bool
	log           *slog.Logger
}

// OpenDir returns a log that goes on in a directory where one of the same replica ended,
// or begins there. It reads the last file first: a broken end is closed off by the
// opening record; any other damage is an error, which somebody must look at before more
// is built upon it.
func OpenDir(path string, o Options) (*Log, error) {
	d := &directory{path: path, replica: o.Replica, sync: !o.NoSync}
	l, err := newLog(d, o)
	if err != nil {
		return nil, err
	}
	d.most, d.limit, d.log = l.o.MaxFile, l.o.MaxFile, l.o.Log
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	if err := l.follow(names); err != nil {
		return nil, fmt.Errorf("issuance log in %s: %w", path, err)
	}
	if len(names) > 0 {
		err = d.open(names[len(names)-1], 0)
	} else {
		err = d.open(d.name(1), os.O_CREATE|os.O_EXCL)
	}
	if err != nil {
		return nil, err
	}
	l.probe()
	return l, nil
}

// names returns the replica's files in the order that they were begun.
func (d *directory) names() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		middle, ours := strings.CutPrefix(e.Name(), d.replica+".")
		middle, whole := strings.CutSuffix(middle, FileSuffix)
		if ours && whole && strings.Trim(middle, "0123456789") == "" {
			names = append(names, filepath.Join(d.path, e.Name()))
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return names, nil
}

func (d *directory) name(first uint64) string {
	return filepath.Join(d.path, fmt.Sprintf("%s.%012d%s", d.replica, first, FileSuffix))
}

// follow takes the end of the chain in the files for the log's own beginning. Only as
// many files are read as it takes to find a record.
func (l *Log) follow(names []string) error {
	for i := range slices.Backward(names) {
		v, err := NewVerifier(VerifyOptions{Partial: true})
		if err != nil {
			return err
		}
		for _, name := range names[i:] {
			if err := v.readFile(name); err != nil {
				return err
			}
		}
		report := v.Report()
		if len(report.Chains) == 0 && i > 0 {
			continue
		}
		for _, b := range report.Breaks {
			if !v.atEnd(b) {
				return &b
			}
		}
		if len(report.Chains) > 1 {
			return errors.New("more than one chain")
		}
		for _, c := range report.Chains {
			l.seq, l.head = c.Last, c.Head
		}
		l.newline = v.unended
		for _, f := range v.loose {
			if f.order > v.end {
				l.torn = append(l.torn, f.hash)
			}
		}
		return nil
	}
	return nil
}

func (d *directory) open(name string, flags int) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|flags, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && flags != 0 && d.sync {
		err = syncDirectory(d.path)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	before := d.file
	d.file, d.size, d.limit = f, info.Size(), d.most
	if before != nil {
		return before.Close()
	}
	return nil
}

// syncDirectory makes the name of a new file last.
func syncDirectory(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *directory) Write(b []byte) (int, error) {
	n, err := d.file.Write(b)
	d.size += int64(n)
	return n, err
}

// begin goes on to another file where the one before is full. As long as there can be
// none, the full one grows.
func (d *directory) begin(seq uint64) bool {
	if d.size < d.limit {
		return false
	}
	before := d.file
	err := d.open(d.name(seq), os.O_CREATE|os.O_EXCL)
	if err != nil {
		d.log.Warn("issuance log began no new file", "err", err)
		d.limit = d.size + d.most/16
	}
	return d.file != before
}

func (d *directory) commit() error {
	if !d.sync {
		return nil
	}
	return d.file.Sync()
}

func (d *directory) Close() error { return d.file.Close() }
