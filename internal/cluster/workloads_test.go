package cluster

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func cartPod(change func(*corev1.Pod)) *corev1.Pod {
	pod := livePod()
	pod.Name, pod.UID, pod.DeletionTimestamp = "cart-1", "p1", nil
	if change != nil {
		change(pod)
	}
	return pod
}

func cartAccount(uid string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: types.UID(uid)}}
}

// viewOf returns workloads whose watches show these objects as of now, over an API
// server that has those, and counts the reads that reach it.
func viewOf(t testing.TB, shown, stored []apiruntime.Object) (*Workloads, *atomic.Int32) {
	t.Helper()
	client := fake.NewClientset(stored...)
	var reads atomic.Int32
	client.PrependReactor("*", "*", func(clienttesting.Action) (bool, apiruntime.Object, error) {
		reads.Add(1)
		return false, nil, nil
	})
	w := (&API{Client: client, reviews: client, metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())}).WatchWorkloads(WorkloadsOptions{})
	lists := map[*mirror][]any{&w.pods: nil, &w.accounts: nil}
	for _, obj := range shown {
		m := &w.accounts
		if _, ok := obj.(*corev1.Pod); ok {
			m = &w.pods
		}
		lists[m] = append(lists[m], obj)
	}
	for m, objects := range lists {
		if err := m.Replace(objects, "10"); err != nil {
			t.Fatal(err)
		}
		m.proof.read(reading{"10", time.Now()})
	}
	return w, &reads
}

func TestAlive(t *testing.T) {
	type objects = []apiruntime.Object
	account, pod := cartAccount("a1"), cartPod(nil)
	both := objects{account, pod}
	for name, c := range map[string]struct {
		shown, stored      objects
		account, uid, name string // of the claim
		want               error
		reads              int32
	}{
		"both live":               {both, nil, "a1", "p1", "cart-1", nil, 0},
		"no pod to look at":       {objects{account}, nil, "a1", "", "", nil, 0},
		"any account":             {both, nil, "", "p1", "cart-1", nil, 0},
		"any name of the pod":     {both, nil, "a1", "p1", "", nil, 0},
		"other account":           {both, both, "a0", "p1", "cart-1", ErrUnauthenticated, 1},
		"account made anew, seen": {objects{cartAccount("a0"), pod}, both, "a1", "p1", "cart-1", nil, 1},
		"account unknown":         {objects{pod}, objects{pod}, "a1", "p1", "cart-1", ErrUnauthenticated, 1},
		"account new":             {objects{pod}, both, "a1", "p1", "cart-1", nil, 1},
		"account going": {objects{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "cart", UID: "a1", DeletionTimestamp: &metav1.Time{},
		}}, pod}, nil, "a1", "p1", "cart-1", ErrUnauthenticated, 0},
		"pod unknown":          {objects{account}, objects{account}, "a1", "p1", "cart-1", ErrUnauthenticated, 1},
		"pod new":              {objects{account}, both, "a1", "p1", "cart-1", nil, 1},
		"pod of that name":     {objects{account}, both, "a1", "p0", "cart-1", ErrUnauthenticated, 1},
		"pod unknown, no name": {objects{account}, both, "a1", "p1", "", ErrUnauthenticated, 0},
		"pod of another name":  {both, nil, "a1", "p1", "cart-2", ErrUnauthenticated, 0},
		"pod terminating": {objects{account, cartPod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}, nil,
			"a1", "p1", "cart-1", ErrUnauthenticated, 0},
		"pod failed":    {objects{account, cartPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, nil, "a1", "p1", "cart-1", ErrUnauthenticated, 0},
		"pod succeeded": {objects{account, cartPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, nil, "a1", "p1", "cart-1", ErrUnauthenticated, 0},
		"pod lost":      {objects{account, cartPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown })}, nil, "a1", "p1", "cart-1", ErrUnauthenticated, 0},
		"pod pending":   {objects{account, cartPod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending })}, nil, "a1", "p1", "cart-1", nil, 0},
		"pod of another account": {objects{account, cartPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "pay" })}, nil,
			"a1", "p1", "cart-1", ErrUnauthenticated, 0},
		"pod of another namespace": {objects{account, cartPod(func(p *corev1.Pod) { p.Namespace = "bank" })}, nil,
			"a1", "p1", "cart-1", ErrUnauthenticated, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w, reads := viewOf(t, c.shown, c.stored)
			if err := w.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: c.account}, c.name, c.uid); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if n := reads.Load(); n != c.reads {
				t.Errorf("%d live reads, want %d", n, c.reads)
			}
		})
	}
}

func TestOnNode(t *testing.T) {
	account := cartAccount("a1")
	second := cartPod(func(p *corev1.Pod) { p.Name, p.UID = "cart-2", "p2" })
	elsewhere := cartPod(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.NodeName = "cart-3", "p3", "n2" })
	going := cartPod(func(p *corev1.Pod) { p.Name, p.UID, p.DeletionTimestamp = "cart-0", "p0", &metav1.Time{} })
	other := cartPod(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.ServiceAccountName = "a", "p4", "pay" })
	all := []apiruntime.Object{account, second, cartPod(nil), elsewhere, going, other}
	w, reads := viewOf(t, all, nil)
	got, err := w.OnNode(t.Context(), "n1", "shop", "cart")
	want := mesh.Pod{Name: "cart-1", UID: "p1", Node: "n1", Live: true, Account: mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil || reads.Load() != 0 {
		t.Errorf("%v, %d reads, (-want +got): %s", err, reads.Load(), diff)
	}
	if _, err := w.OnNode(t.Context(), "n3", "shop", "cart"); !errors.Is(err, ErrUnauthenticated) || reads.Load() != 1 {
		t.Errorf("no pod there: %v after %d reads", err, reads.Load())
	}
	w, _ = viewOf(t, nil, []apiruntime.Object{account, cartPod(nil)})
	if got, err := w.OnNode(t.Context(), "n1", "shop", "cart"); err != nil || got != want {
		t.Errorf("a pod that the watch has not shown: %v, %v", got, err)
	}
	w, _ = viewOf(t, all[1:], all[1:])
	if _, err := w.OnNode(t.Context(), "n1", "shop", "cart"); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("without its account: %v", err)
	}
}

// Whoever lived a moment ago is looked for again in the watches alone, which count for
// as much as they can know.
func TestStillAlive(t *testing.T) {
	type objects = []apiruntime.Object
	account, pod := cartAccount("a1"), cartPod(nil)
	const before, after = -time.Second, time.Second // the view is as of then
	going := cartAccount("a1")
	going.DeletionTimestamp = &metav1.Time{}
	for name, c := range map[string]struct {
		shown objects
		since time.Duration // from when the view is of
		want  error
	}{
		"both live":                   {objects{account, pod}, before, nil},
		"both live, view before":      {objects{account, pod}, after, nil},
		"pod gone":                    {objects{account}, before, ErrUnauthenticated},
		"pod newer than the view":     {objects{account}, after, nil},
		"account gone":                {objects{pod}, before, ErrUnauthenticated},
		"account newer than the view": {objects{pod}, after, nil},
		"account made anew":           {objects{cartAccount("a2"), pod}, before, ErrUnauthenticated},
		"account made anew, not seen": {objects{cartAccount("a0"), pod}, after, nil},
		"account going":               {objects{going, pod}, after, ErrUnauthenticated},
		"pod terminating": {objects{account, cartPod(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}, after,
			ErrUnauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, reads := viewOf(t, c.shown, objects{account, pod})
				still := func(pod string) error {
					return w.StillAlive(mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, pod, w.pods.proof.proven().Add(c.since))
				}
				if err := still("p1"); !errors.Is(err, c.want) || reads.Load() > 0 {
					t.Errorf("%v after %d reads, want %v", err, reads.Load(), c.want)
				}
				if err := still(""); errors.Is(err, ErrUnauthenticated) != (c.want != nil && strings.HasPrefix(name, "account")) {
					t.Errorf("without a pod: %v", err)
				}
				time.Sleep(DefaultWindow + time.Second)
				for ago, want := range map[time.Duration]error{justOver: nil, justOver + 1: ErrUnavailable} {
					err := w.StillAlive(mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, "p1", time.Now().Add(-ago))
					if !errors.Is(err, want) || reads.Load() > 0 {
						t.Errorf("outdated, %v ago: %v after %d reads", ago, err, reads.Load())
					}
				}
			})
		})
	}
}

// A view that is too old is no reason to believe anything: all is read live, and what
// cannot be read is unavailable.
func TestAliveOutdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		both := []apiruntime.Object{cartAccount("a1"), cartPod(nil)}
		alive := func(w *Workloads) error {
			return w.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, "cart-1", "p1")
		}

		w, reads := viewOf(t, both, both)
		time.Sleep(DefaultWindow)
		if err := alive(w); err != nil || reads.Load() != 0 {
			t.Errorf("just not outdated: %v after %d reads", err, reads.Load())
		}
		time.Sleep(time.Second)
		if err := alive(w); err != nil || reads.Load() != 2 {
			t.Errorf("outdated: %v after %d reads", err, reads.Load())
		}
		if err := w.Alive(t.Context(), mesh.ServiceAccount{Namespace: "shop", Name: "cart", UID: "a1"}, "", "p1"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("outdated, and no name to read: %v", err)
		}
		w, _ = viewOf(t, both, both[:1])
		time.Sleep(DefaultWindow + time.Second)
		if err := alive(w); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("outdated, the pod is gone: %v", err)
		}
		if _, err := w.OnNode(t.Context(), "n1", "shop", "cart"); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("outdated, the pod on the node is gone: %v", err)
		}
		var refused error
		for range liveBurst {
			if refused = alive(w); errors.Is(refused, ErrUnavailable) {
				break
			}
		}
		if !errors.Is(refused, ErrUnavailable) {
			t.Errorf("unbounded reads, the last: %v", refused)
		}
		time.Sleep(time.Second)
		if err := alive(w); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("a second later: %v", err)
		}
	})
}

// storage is what an API server has of one kind, to be listed and watched.
type storage struct {
	version atomic.Int64
	stuck   atomic.Bool // the connection is there and says nothing
}

func (s *storage) source() source {
	version := func() string { return fmt.Sprint(s.version.Load()) }
	return source{
		kind: &corev1.Pod{},
		list: func(context.Context, metav1.ListOptions) (apiruntime.Object, error) {
			return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: version()}}, nil
		},
		// As API servers do, a watch says where it is two seconds before its end.
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w := watch.NewFake()
			go func() {
				defer w.Stop()
				life := time.Duration(*o.TimeoutSeconds) * time.Second
				select {
				case <-time.After(life - 2*time.Second):
				case <-ctx.Done():
					return
				}
				if s.stuck.Load() {
					<-ctx.Done()
					return
				}
				w.Action(watch.Bookmark, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version()}})
				select {
				case <-time.After(2 * time.Second):
				case <-ctx.Done():
				}
			}()
			return w, nil
		},
		now: func(context.Context) (string, error) { return version(), nil },
	}
}

// Watches of quiet objects in a busy cluster prove themselves all the time, and a
// watch that is stuck is found out within the window.
func TestWorkloadsProveThemselves(t *testing.T) {
	for _, window := range []time.Duration{MinWindow, DefaultWindow, 10 * time.Minute} {
		t.Run(window.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { proveThemselves(t, window) })
		})
	}
}

func proveThemselves(t *testing.T, window time.Duration) {
	client := fake.NewClientset()
	w := (&API{Client: client, reviews: client, metadata: metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())}).WatchWorkloads(WorkloadsOptions{Window: window, Log: logger(t)})
	pods, accounts := &storage{}, &storage{}
	pods.version.Store(100)
	accounts.version.Store(100)
	w.sources = map[string]source{podObjects: pods.source(), accountObjects: accounts.source()}
	if err := w.Ready(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("before the first list: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }() // waited for below
	time.Sleep(time.Second)
	worst := time.Duration(0)
	for range 600 {
		time.Sleep(window / 60)
		pods.version.Add(1) // leases, events, whatever
		accounts.version.Add(1)
		if time.Since(w.pods.proof.proven()) > worst && w.listed() {
			worst = time.Since(w.pods.proof.proven())
		}
	}
	if err := w.Ready(); err != nil || worst > window*3/4 {
		t.Errorf("%v; once the view was %v old, which is too near to %v", err, worst, window)
	}
	accounts.stuck.Store(true)
	for range 120 {
		time.Sleep(window / 60)
		accounts.version.Add(1)
	}
	if err := w.Ready(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "old") {
		t.Errorf("with a stuck watch: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestMirror(t *testing.T) {
	m := mirror{byUID: map[string]*resident{}, byName: map[key]*resident{}, byNode: map[string]map[string]*resident{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cart := key{Namespace: "shop", Name: "cart"}
	old, anew := cartPod(nil), cartPod(func(p *corev1.Pod) { p.UID = "p2" })
	must(m.Add(cartPod(func(p *corev1.Pod) { p.Spec.NodeName = "" })))
	if n := len(m.onNode("n1", cart)); n != 0 {
		t.Errorf("%d pods on a node before they are scheduled", n)
	}
	must(m.Update(old))
	must(m.Add(anew)) // the watch may tell of a successor first
	must(m.Delete(old))
	if m.pod("p1") != nil || m.pod("p2") == nil || m.account(key{Namespace: "shop", Name: "cart-1"}).uid != "p2" || len(m.onNode("n1", cart)) != 1 {
		t.Errorf("%+v", &m)
	}
	must(m.Replace([]any{old}, "5"))
	if m.pod("p2") != nil || m.len() != 1 || len(m.byNode) != 1 || m.byNode["n1"]["p1"] == nil {
		t.Errorf("%+v", &m)
	}
	must(m.Delete(old))
	must(m.Delete(old))
	if m.len()+len(m.byName)+len(m.byNode) != 0 {
		t.Errorf("%+v", &m)
	}
	if err := m.Add("text"); err == nil {
		t.Error("took a text")
	}
}

// What a hundred thousand pods take is reported; a pod as a whole would be near 20 KiB.
func BenchmarkMirror(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		m := mirror{byUID: map[string]*resident{}, byNode: map[string]map[string]*resident{}}
		const pods = 100_000
		for i := range pods {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns-", i%500), Name: fmt.Sprintf("workload-%d-5d4f8c7b9-abcde", i), UID: types.UID(fmt.Sprintf("0b0d6a0c-52d4-4b36-b4a5-%012d", i))},
				Spec:       corev1.PodSpec{ServiceAccountName: fmt.Sprint("account-", i%2000), NodeName: fmt.Sprint("node-", i%2000)},
			}
			if err := m.Add(pod); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/pods, "B/pod")
		runtime.KeepAlive(&m)
	}
}
