package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"
)

const (
	workers       = 4 // of a loop over many objects
	defaultResync = 10 * time.Minute

	// syncTimeout bounds the work on one object, so that requests which hang cost
	// a worker no more than this.
	syncTimeout = 30 * time.Second

	// An object that failed is tried again after firstRetry, then twice as long,
	// up to lastRetry, for ever.
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute

	// Repairs of one object that somebody else changes again and again are
	// firstPause apart, then twice as long, up to lastPause. A quiet time of
	// twice lastPause and the next repair is immediate again.
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second

	forgetPauses = 10 * time.Minute // how often those that no longer matter are dropped
)

// key names an object; the namespace is empty for those that have none.
type key = types.NamespacedName

// loop calls sync for every key that is put in its queue, by a few workers, never
// for one key twice at a time. A key that fails comes back later and keeps nobody
// else waiting; what to do with it is decided each time from the state of then.
type loop struct {
	queue     workqueue.TypedRateLimitingInterface[key]
	informers []cache.SharedIndexInformer
	also      []func(context.Context) // run beside the workers
	workers   int
	log       *slog.Logger
	pauses    *flowcontrol.Backoff

	// sync brings one object to what it should be, and says after how long it wants
	// to look again even if nothing is heard of the object; 0 is never.
	sync func(ctx context.Context, k key) (again time.Duration, err error)
}

func newLoop(workers int, log *slog.Logger) *loop {
	limiter := jittered{workqueue.NewTypedItemExponentialFailureRateLimiter[key](firstRetry, lastRetry)}
	return &loop{
		queue:   workqueue.NewTypedRateLimitingQueue[key](limiter),
		workers: workers,
		log:     orDiscard(log),
		pauses:  flowcontrol.NewBackOff(firstPause, lastPause),
	}
}

// jittered keeps objects that failed together from coming back together.
type jittered struct {
	workqueue.TypedRateLimiter[key]
}

func (j jittered) When(k key) time.Duration { return wait.Jitter(j.TypedRateLimiter.When(k), 0.25) }

// watch makes every change that informer sees call changed with the object, or
// with the last known state of one that is gone.
func (l *loop) watch(informer cache.SharedIndexInformer, changed func(obj any)) error {
	return l.watchTrimmed(informer, withoutManagedFields, changed)
}

// watchTrimmed is watch with what trim leaves of each object.
func (l *loop) watchTrimmed(informer cache.SharedIndexInformer, trim cache.TransformFunc, changed func(obj any)) error {
	return l.watchChanges(informer, trim, func(obj any, _ bool) { changed(obj) })
}

// watchChanges is watchTrimmed for who wants to know whether an object was only listed:
// it need not have changed since the watch began.
func (l *loop) watchChanges(informer cache.SharedIndexInformer, trim cache.TransformFunc, changed func(obj any, listed bool)) error {
	if err := prepare(informer, trim, l.log); err != nil {
		return err
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc:    changed,
		UpdateFunc: func(old, obj any) { changed(obj, sightedVersion(old) == sightedVersion(obj)) },
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			changed(obj, false)
		},
	}); err != nil {
		return err
	}
	l.informers = append(l.informers, informer)
	return nil
}

func sightedVersion(obj any) string {
	object, err := meta.Accessor(obj)
	if err != nil {
		return ""
	}
	return object.GetResourceVersion()
}

// enqueue is for watches whose objects are themselves what is kept.
func (l *loop) enqueue(obj any) {
	if object, err := meta.Accessor(obj); err == nil {
		l.queue.Add(key{Namespace: object.GetNamespace(), Name: object.GetName()})
	}
}

// heed makes a word on the channel, which may be nil, one about every object of a
// cache.
func (l *loop) heed(word <-chan struct{}, objects cache.Store) {
	l.also = append(l.also, func(ctx context.Context) {
		for {
			select {
			case <-ctx.Done():
				return
			case _, open := <-word:
				if !open {
					return
				}
				for _, obj := range objects.List() {
					l.enqueue(obj)
				}
			}
		}
	})
}

// run works until ctx ends and waits for all that it started.
func (l *loop) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.queue.ShutDown()
	var synced []cache.InformerSynced
	for _, informer := range l.informers {
		wg.Go(func() { informer.RunWithContext(ctx) })
		synced = append(synced, informer.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	wg.Go(func() { wait.UntilWithContext(ctx, func(context.Context) { l.pauses.GC() }, forgetPauses) })
	for _, also := range l.also {
		wg.Go(func() { also(ctx) })
	}
	for range l.workers {
		wg.Go(func() {
			for l.step(ctx) {
			}
		})
	}
	<-ctx.Done()
	return nil
}

// step works on one key. It reports whether there may be another.
func (l *loop) step(ctx context.Context) bool {
	k, shut := l.queue.Get()
	if shut {
		return false
	}
	defer l.queue.Done(k)
	if ctx.Err() != nil {
		return false
	}
	within, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	again, err := l.sync(within, k)
	switch {
	case err == nil:
		l.queue.Forget(k)
		if again > 0 {
			l.queue.AddAfter(k, again)
		}
	case ctx.Err() != nil: // stopped, or the lease is lost: the next leader's work
	// The watch is behind, or somebody was faster; or the namespace is going, or has come
	// again and not every part of the API server knows.
	case apierrors.IsConflict(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		l.log.DebugContext(ctx, "object changed meanwhile", "object", k.String(), "err", err)
		l.queue.AddRateLimited(k)
	default:
		l.log.WarnContext(ctx, "object not kept", "object", k.String(), "err", err)
		l.queue.AddRateLimited(k)
	}
	return true
}

// pause says how long the next repair of an object has to wait because it was
// repaired just now; the first never waits.
func (l *loop) pause(k key) time.Duration {
	if id := k.String(); l.pauses.IsInBackOffSinceUpdate(id, time.Now()) {
		return l.pauses.Get(id)
	}
	return 0
}

// repaired makes the next repair of the object wait for longer than this one.
func (l *loop) repaired(k key) { l.pauses.Next(k.String(), time.Now()) }

// find returns the object that a watch's cache holds, not to be changed, or nil.
func find[T any](store cache.Store, k key) (*T, error) {
	id := k.Name
	if k.Namespace != "" {
		id = k.String()
	}
	obj, ok, err := store.GetByKey(id)
	if err != nil || !ok {
		return nil, err
	}
	typed, ok := obj.(*T)
	if !ok {
		return nil, fmt.Errorf("%s: cached as %T", id, obj)
	}
	return typed, nil
}
