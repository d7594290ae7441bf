package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long directories have to rest before their change is told: files that
// belong together are written one by one. maxUnrest bounds the waiting.
const (
	quiet     = 100 * time.Millisecond
	maxUnrest = 2 * time.Second
)

// recheck is how often files are looked at though nothing was heard: not every file
// system tells of changes, and a directory may have been made anew.
const recheck = time.Minute

// Files tells of changes in directories.
type Files struct {
	Dirs    []string
	Changed func()       // called at the start, after changes, and each minute; one call at a time
	Log     *slog.Logger // nil: no log
}

// Run calls Changed until ctx ends. A Kubernetes volume is replaced by the swap of one
// symbolic link in its directory, which is a change like any other.
func (f Files) Run(ctx context.Context) error {
	if f.Log == nil {
		f.Log = slog.New(slog.DiscardHandler)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch of files: %w", err)
	}
	defer w.Close()
	watch := func() {
		for _, dir := range f.Dirs {
			if !slices.Contains(w.WatchList(), dir) {
				if err := w.Add(dir); err != nil {
					f.Log.WarnContext(ctx, "directory is not watched, only looked at from time to time", "dir", dir, "err", err)
				}
			}
		}
	}
	watch()
	f.Changed()
	again := time.NewTicker(recheck)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			watch()
		case err, ok := <-w.Errors:
			if !ok {
				return errors.New("watch of files: ended")
			}
			f.Log.WarnContext(ctx, "watch of files failed", "err", err) // events were lost: look
		case <-w.Events:
			settle(ctx, w.Events)
			watch()
		}
		if ctx.Err() == nil {
			f.Changed()
		}
	}
}

// settle waits until no more events come.
func settle(ctx context.Context, events <-chan fsnotify.Event) {
	rest, end := time.NewTimer(quiet), time.NewTimer(maxUnrest)
	defer rest.Stop()
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			rest.Reset(quiet)
		case <-rest.C:
			return
		case <-end.C:
			return
		}
	}
}
