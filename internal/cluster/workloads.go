package cluster

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/garrison-mesh/garrison/internal/elapsed"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

const (
	// DefaultWindow is how long a pod or an account that was deleted may go on to be
	// taken for alive.
	DefaultWindow = 30 * time.Second
	// MinWindow is the shortest window that API servers can prove: a watch has to live
	// for longer than the two seconds before whose end they send a bookmark.
	MinWindow = 12 * time.Second

	// justOver is how long who was seen alive counts for that without another look.
	justOver = 100 * time.Millisecond
)

// WorkloadsOptions are the settings of [Workloads]. Zero values mean defaults.
type WorkloadsOptions struct {
	Window  time.Duration         // [DefaultWindow]; at least [MinWindow]
	Log     *slog.Logger          // no log
	Metrics prometheus.Registerer // nothing can read them
}

// Workloads is which pods and service accounts live, as watches show it. What the
// watches say holds only while they can prove to be no older than the window; what
// they do not know, and everything while they are older, is read live, a bounded
// number of times in a second, and what is gone not again for some. So a pod or an account that was deleted is alive here
// for no longer than the window, whatever happens to the watches.
type Workloads struct {
	window         time.Duration
	log            *slog.Logger
	client         kubernetes.Interface
	pods, accounts mirror
	sources        map[string]source // by what they are called, as are mirrors
	lookups        flowcontrol.RateLimiter
	gone           *gone
	read           prometheus.Counter
}

// What mirrors are called in metrics and in the log.
const (
	podObjects     = "pods"
	accountObjects = "serviceaccounts"
)

// WatchWorkloads returns the pods and service accounts of the cluster;
// [Workloads.Run] has to run.
func (a *API) WatchWorkloads(o WorkloadsOptions) *Workloads {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	w := &Workloads{
		window: max(o.Window, MinWindow), log: orDiscard(o.Log), client: a.reviews,
		pods:     mirror{byUID: map[string]*resident{}, byNode: map[string]map[string]*resident{}},
		accounts: mirror{byUID: map[string]*resident{}, byName: map[key]*resident{}},
		lookups:  flowcontrol.NewTokenBucketRateLimiter(liveQPS, liveBurst),
		gone:     newGone(),
	}
	pods := a.reviews.CoreV1().Pods(metav1.NamespaceAll)
	accounts := a.metadata.Resource(corev1.SchemeGroupVersion.WithResource(accountObjects))
	w.sources = map[string]source{
		podObjects: {
			kind:  &corev1.Pod{},
			list:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return pods.List(ctx, o) },
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return pods.Watch(ctx, o) },
			now: func(ctx context.Context) (string, error) {
				return versionOf(w.client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, nobody()))
			},
		},
		accountObjects: {
			kind: &metav1.PartialObjectMetadata{},
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return accounts.List(ctx, o) },
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return accounts.Watch(ctx, o)
			},
			now: func(ctx context.Context) (string, error) {
				return versionOf(w.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).List(ctx, nobody()))
			},
		},
	}
	w.register(o.Metrics)
	return w
}

// nobody selects no object of a namespace, by a name that none can have: the answer
// is the version and nothing else, and costs the storage one key.
func nobody() metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, "-").String()}
}

func (w *Workloads) mirrors() map[string]*mirror {
	return map[string]*mirror{podObjects: &w.pods, accountObjects: &w.accounts}
}

func (w *Workloads) register(r prometheus.Registerer) {
	f := promauto.With(r)
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "citadel", Subsystem: "server", Name: name, Help: help, ConstLabels: labels}, value)
	}
	gauge("revocation_window_seconds", "How long a deleted pod or service account, or a revoked identity, may go on to be certified, at most.", nil,
		func() float64 { return w.window.Seconds() })
	for name, m := range w.mirrors() {
		of := prometheus.Labels{"objects": name}
		gauge("workload_view_age_seconds", "How old the view of these objects may be at most; beyond the revocation window it is not believed.", of,
			func() float64 { return age(m).Seconds() })
		gauge("workload_view_objects", "Objects in the view.", of, func() float64 { return float64(m.len()) })
	}
	w.read = f.NewCounter(prometheus.CounterOpts{Namespace: "citadel", Subsystem: "server", Name: "workload_live_reads_total",
		Help: "Pods and service accounts that were read live, because the view did not know them or was too old."})
}

// unproven is the age of a mirror that has proven nothing yet.
const unproven = time.Duration(math.MaxInt64)

// age is how old what the mirror shows may be.
func age(m *mirror) time.Duration {
	at := m.proof.proven()
	if at.IsZero() {
		return unproven
	}
	return elapsed.Since(at)
}

// Ready reports why the watches may not be believed now. It takes no time.
func (w *Workloads) Ready() error {
	for _, m := range []*mirror{&w.pods, &w.accounts} {
		if a := age(m); a > w.window {
			if a == unproven {
				return fmt.Errorf("%w: pods and service accounts are not listed yet", ErrUnavailable)
			}
			return fmt.Errorf("%w: the watch of pods and service accounts is %v old, at most %v", ErrUnavailable, a.Round(time.Second), w.window)
		}
	}
	return nil
}

// listed reports whether the watches were ever good.
func (w *Workloads) listed() bool {
	return !w.pods.proof.proven().IsZero() && !w.accounts.proof.proven().IsZero()
}

// Run watches until ctx ends. It is called once.
func (w *Workloads) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, m := range w.mirrors() {
		s := w.sources[name]
		r := s.reflector(name, m, w.window/3)
		wg.Go(func() {
			_ = w.compare(ctx, m, s) // before the first list, which then proves itself
			wg.Go(func() { r.RunWithContext(ctx) })
			w.keepComparing(ctx, name, s)
		})
	}
	<-ctx.Done()
	return nil
}

// compare reads which version the API server is at.
func (w *Workloads) compare(ctx context.Context, m *mirror, s source) error {
	ctx, cancel := context.WithTimeout(ctx, w.window/6)
	defer cancel()
	at := time.Now()
	version, err := s.now(ctx)
	if err == nil {
		m.proof.read(reading{version, at})
	}
	return err
}

// keepComparing reads the version again and again, and says when the watch has fallen
// behind and when it has caught up.
func (w *Workloads) keepComparing(ctx context.Context, name string, s source) {
	tick := time.NewTicker(w.window / 6)
	defer tick.Stop()
	m := w.mirrors()[name]
	believed := true // nothing to say before the first list
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := w.compare(ctx, m, s)
		switch a := age(m); {
		case ctx.Err() != nil:
			return
		case believed && a > w.window && a != unproven:
			w.log.WarnContext(ctx, "view of workloads is too old to be believed", "objects", name, "window", w.window, "err", err)
			believed = false
		case !believed && a <= w.window:
			w.log.InfoContext(ctx, "view of workloads is current again", "objects", name)
			believed = true
		}
	}
}

// Alive reports whether this very account and this very pod of it live: nil, or
// [ErrUnauthenticated], or [ErrUnavailable] where it cannot be told now. An empty
// podUID is no pod to look at, an empty pod one that goes by its UID, and an account
// without UID whatever lives under its name. Pods that are terminating, or have ended,
// do not.
func (w *Workloads) Alive(ctx context.Context, account mesh.ServiceAccount, pod, podUID string) error {
	_, err := w.find(ctx, claim{key{Namespace: account.Namespace, Name: account.Name}, account.UID, pod, podUID})
	return err
}

// StillAlive reports whether an account and a pod, empty for none, that lived at the
// moment since do so yet, by the watches alone: nil, or [ErrUnauthenticated], or
// [ErrUnavailable] while the watches are older than the window, unless the moment is
// just over. It takes no time. What the watches do not show may be newer than they are,
// if they are older than since; that is nil.
func (w *Workloads) StillAlive(account mesh.ServiceAccount, podUID string, since time.Time) error {
	if err := w.Ready(); err != nil {
		if elapsed.Since(since) <= justOver {
			return nil
		}
		return err
	}
	k := key{Namespace: account.Namespace, Name: account.Name}
	// Asked before the mirrors are, which may be younger by then.
	showsAccounts, showsPods := !w.accounts.proof.proven().Before(since), !w.pods.proof.proven().Before(since)
	switch is := w.accounts.account(k); {
	case is == nil || is.uid != account.UID:
		if showsAccounts {
			return fmt.Errorf("%w: service account %s exists no more", ErrUnauthenticated, k)
		}
	case !is.live:
		return fmt.Errorf("%w: service account %s is being deleted", ErrUnauthenticated, k)
	}
	if podUID == "" {
		return nil
	}
	switch pod := w.pods.pod(podUID); {
	case pod == nil:
		if showsPods {
			return fmt.Errorf("%w: the pod exists no more", ErrUnauthenticated)
		}
	case !pod.live:
		return fmt.Errorf("%w: pod %s/%s has ended or is terminating", ErrUnauthenticated, pod.namespace, pod.name)
	}
	return nil
}

// claim is an account, and a pod that is said to run as it.
type claim struct {
	account    key
	accountUID string
	podName    string
	podUID     string
}

// find returns the pod of a claim that is true, or the zero value for one of none.
func (w *Workloads) find(ctx context.Context, c claim) (mesh.Pod, error) {
	account, err := w.findAccount(ctx, c)
	if err != nil || c.podUID == "" {
		return mesh.Pod{}, err
	}
	pod, outdated := w.pods.pod(c.podUID), w.Ready()
	switch {
	case c.podName != "" && (outdated != nil || pod == nil):
		if pod, err = w.readPod(ctx, key{Namespace: c.account.Namespace, Name: c.podName}, c.podUID); err != nil {
			return mesh.Pod{}, err
		}
	case outdated != nil:
		return mesh.Pod{}, outdated
	}
	switch {
	case pod == nil:
		return mesh.Pod{}, fmt.Errorf("%w: the pod exists no more", ErrUnauthenticated)
	case pod.uid != c.podUID:
		return mesh.Pod{}, fmt.Errorf("%w: pod %s is another one by now", ErrUnauthenticated, c.podName)
	case c.podName != "" && pod.name != c.podName, pod.namespace != c.account.Namespace, pod.account != c.account.Name:
		return mesh.Pod{}, fmt.Errorf("%w: pod %s/%s is none of service account %s", ErrUnauthenticated, pod.namespace, pod.name, c.account)
	case !pod.live:
		return mesh.Pod{}, fmt.Errorf("%w: pod %s/%s has ended or is terminating", ErrUnauthenticated, pod.namespace, pod.name)
	}
	return meshPod(pod, account), nil
}

// findAccount returns the account of a claim, the very one where the claim says which.
func (w *Workloads) findAccount(ctx context.Context, c claim) (*resident, error) {
	account := w.accounts.account(c.account)
	if w.Ready() != nil || account == nil || c.accountUID != "" && account.uid != c.accountUID { // it may be newer than the view
		var err error
		if account, err = w.readAccount(ctx, c.account, c.accountUID); err != nil {
			return nil, err
		}
	}
	switch {
	case account == nil:
		return nil, fmt.Errorf("%w: service account %s does not exist", ErrUnauthenticated, c.account)
	case c.accountUID != "" && account.uid != c.accountUID:
		return nil, fmt.Errorf("%w: service account %s is another one by now", ErrUnauthenticated, c.account)
	case !account.live:
		return nil, fmt.Errorf("%w: service account %s is being deleted", ErrUnauthenticated, c.account)
	}
	return account, nil
}

// OnNode returns a live pod of the account on the node, the first by name. Errors are
// as [Workloads.Alive] has them.
func (w *Workloads) OnNode(ctx context.Context, node, namespace, account string) (mesh.Pod, error) {
	k := key{Namespace: namespace, Name: account}
	owner, err := w.findAccount(ctx, claim{account: k})
	if err != nil {
		return mesh.Pod{}, err
	}
	pods := w.pods.onNode(node, k)
	if w.Ready() != nil || len(pods) == 0 {
		if pods, err = w.readOnNode(ctx, node, k); err != nil {
			return mesh.Pod{}, err
		}
	}
	if len(pods) == 0 {
		return mesh.Pod{}, fmt.Errorf("%w: no live pod of service account %s on node %s", ErrUnauthenticated, k, node)
	}
	first := slices.MinFunc(pods, func(a, b *resident) int { return cmp.Compare(a.name, b.name) })
	return meshPod(first, owner), nil
}

func meshPod(pod, account *resident) mesh.Pod {
	return mesh.Pod{
		Name: pod.name, UID: pod.uid, Node: pod.node, Live: pod.live,
		Account: mesh.ServiceAccount{Namespace: pod.namespace, Name: pod.account, UID: account.uid},
	}
}
