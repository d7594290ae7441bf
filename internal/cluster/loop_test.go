package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// TestLoopRetries holds that what fails is tried for ever with growing pauses,
// and keeps nobody else waiting.
func TestLoopRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop(1, nil)
		bad, good := key{Namespace: "a", Name: "bad"}, key{Namespace: "b", Name: "good"}
		tries := map[key][]time.Time{}
		l.sync = func(_ context.Context, k key) (time.Duration, error) {
			tries[k] = append(tries[k], time.Now())
			if k == bad {
				return 0, errors.New("refused")
			}
			return time.Second, nil
		}
		stop := run(t, l.run)
		l.queue.Add(bad)
		l.queue.Add(good)
		<-time.After(time.Hour)
		synctest.Wait()
		stop()
		if n := len(tries[good]); n < 3599 {
			t.Errorf("the good one had %d turns in an hour", n)
		}
		if n := len(tries[bad]); n < 45 || n > 75 {
			t.Errorf("the bad one was tried %d times in an hour", n)
		}
		for i := range tries[bad][1:] {
			if pause := tries[bad][i+1].Sub(tries[bad][i]); pause > 2*lastRetry {
				t.Errorf("try %d came after %v", i+1, pause)
			}
		}
	})
}

// TestLoopPauses holds that somebody who undoes every repair does not make us
// write without end, and that after a truce the first repair is immediate again.
func TestLoopPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fight, truce = 10 * time.Minute, 5 * time.Minute
		l := newLoop(1, nil)
		var repairs []time.Duration
		start := time.Now()
		l.sync = func(_ context.Context, k key) (time.Duration, error) {
			if pause := l.pause(k); pause > 0 {
				return pause, nil
			}
			repairs = append(repairs, time.Since(start))
			l.repaired(k)
			if time.Since(start) < fight {
				l.queue.Add(k)
			}
			return 0, nil
		}
		stop := run(t, l.run)
		k := key{Name: "contested"}
		l.queue.Add(k)
		<-time.After(fight + truce)
		l.queue.Add(k)
		synctest.Wait()
		stop()
		if n := len(repairs); repairs[0] != 0 || n < 20 || n > 30 {
			t.Errorf("%d repairs in %v: %v", n, fight, repairs)
		}
		if last := repairs[len(repairs)-1]; last != fight+truce {
			t.Errorf("the last repair was after %v, want one right after the truce", last)
		}
	})
}

// TestLoopStops holds that work in hand hears of the end at once, is waited for,
// and that nothing is begun after it.
func TestLoopStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop(1, nil)
		begun, ended := 0, 0
		l.sync = func(ctx context.Context, _ key) (time.Duration, error) {
			begun++
			<-ctx.Done()
			<-time.After(time.Second)
			ended++
			return 0, ctx.Err()
		}
		stop := run(t, l.run)
		for _, name := range []string{"a", "b", "c"} {
			l.queue.Add(key{Name: name})
		}
		synctest.Wait()
		stop()
		if begun != 1 || ended != 1 {
			t.Errorf("%d begun, %d ended", begun, ended)
		}
	})
}

// TestLoopBounds holds that a request that hangs costs a worker syncTimeout.
func TestLoopBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLoop(1, nil)
		start, turn := time.Now(), time.Duration(0)
		l.sync = func(ctx context.Context, k key) (time.Duration, error) {
			if k.Name == "hangs" {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			turn = time.Since(start)
			return 0, nil
		}
		stop := run(t, l.run)
		l.queue.Add(key{Name: "hangs"})
		l.queue.Add(key{Name: "next"})
		<-time.After(time.Minute)
		synctest.Wait()
		stop()
		if turn != syncTimeout {
			t.Errorf("the next one had to wait %v", turn)
		}
	})
}

// What went while a watch was broken is told of with the state that was known last.
func TestLoopHearsOfTheGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "gone", ResourceVersion: "1"}}
		lists, broken := 0, watch.NewFake()
		informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				if lists++; lists == 1 {
					return &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.ConfigMap{*gone}}, nil
				}
				return &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "9"}}, nil
			},
			WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
				if lists == 1 {
					return broken, nil
				}
				return watch.NewFake(), nil
			},
		}, fake.NewClientset()), &corev1.ConfigMap{}, 0, cache.Indexers{})
		l := newLoop(1, nil)
		turns := 0
		l.sync = func(_ context.Context, k key) (time.Duration, error) {
			if k != (key{Namespace: "a", Name: "gone"}) {
				t.Errorf("told of %v", k)
			}
			turns++
			return 0, nil
		}
		if err := l.watch(informer, l.enqueue); err != nil {
			t.Fatal(err)
		}
		stop := run(t, l.run)
		lapse(time.Second)
		broken.Error(&apierrors.NewResourceExpired("too old").ErrStatus)
		lapse(time.Minute)
		stop()
		if lists < 2 || turns != 2 {
			t.Errorf("after %d lists told %d times", lists, turns)
		}
	})
}

func TestFind(t *testing.T) {
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	if err := store.Add(webhook()); err != nil {
		t.Fatal(err)
	}
	if got, err := find[cache.DeletedFinalStateUnknown](store, key{Name: webhook().Name}); err == nil {
		t.Errorf("found %v of the wrong type", got)
	}
	if got, err := find[cache.DeletedFinalStateUnknown](store, key{Namespace: "a", Name: "b"}); got != nil || err != nil {
		t.Errorf("absent: %v, %v", got, err)
	}
}
