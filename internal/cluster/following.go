package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Following is one ConfigMap that is to be known as of a time.
type Following struct {
	Namespace, Name string

	Got       func(*corev1.ConfigMap) // the ConfigMap as it is at first and after every change; nil: there is none
	Confirmed func(asOf time.Time)    // what was got last is what there was at that moment

	Every time.Duration // time between two readings when all is quiet, and what one may take; positive
	Log   *slog.Logger  // nil: no log
}

// retryReading is how soon a reading that failed is repeated.
const retryReading = time.Second

// FollowConfigMap returns a part that reads the ConfigMap from the storage again and again,
// and whenever a watch has something to tell. What is told is what was read, and never what
// the watch said: a watch that is stuck or behind delays a change until the next reading, and
// cannot hide it or bring back what was before. Calls come one after the other; the ConfigMap
// is Got's own.
func (a *API) FollowConfigMap(f Following) func(context.Context) error {
	f.Log = orDiscard(f.Log)
	return func(ctx context.Context) error {
		changed := make(chan struct{}, 1)
		tell := func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		informer := coreinformers.NewFilteredConfigMapInformer(a.Client, f.Namespace, 0, cache.Indexers{}, only(f.Name))
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { tell() }, UpdateFunc: func(any, any) { tell() }, DeleteFunc: func(any) { tell() },
		}); err != nil {
			return fmt.Errorf("watch of config map %s/%s: %w", f.Namespace, f.Name, err)
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		wg.Go(func() { informer.RunWithContext(ctx) })
		a.keepReading(ctx, f, changed)
		return nil
	}
}

func (a *API) keepReading(ctx context.Context, f Following, changed <-chan struct{}) {
	var last state
	failing := false
	for {
		pause, at := f.Every, time.Now()
		found, err := a.readFollowed(ctx, f)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = min(pause, retryReading)
			if !failing {
				f.Log.WarnContext(ctx, "config map cannot be read", "namespace", f.Namespace, "name", f.Name, "err", err)
			}
		default:
			if now := stateOf(found); now != last {
				last = now
				f.Got(found)
			}
			f.Confirmed(at)
			if failing {
				f.Log.InfoContext(ctx, "config map can be read again", "namespace", f.Namespace, "name", f.Name)
			}
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(pause):
		}
	}
}

func (a *API) readFollowed(ctx context.Context, f Following) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Every)
	defer cancel()
	return listOne(ctx, a.reviews, key{Namespace: f.Namespace, Name: f.Name})
}
