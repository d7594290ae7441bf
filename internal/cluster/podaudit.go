package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Owners that are told of pods left out, in a second; the others have to wait for
// about tellLater.
const (
	tellQPS   = 5
	tellBurst = 20
	tellLater = 5 * time.Second
)

// PodAudit says what there is to say about pods that exist.
type PodAudit struct {
	// Judge looks at a pod that is neither finished nor being deleted. It gets of it
	// the name, UID and times, labels, annotations below istio.io, garrison.io and
	// prometheus.io and the mirror pod's, the controller, the names of containers, the
	// phase, and of the spec hostNetwork, os, nodeSelector, nodeName, and whether it has
	// resources as a whole; the rest is empty, and the pod is its own. It is called by
	// several workers at a time, whenever the pod changes and after each word on Again,
	// which may be nil. After an error the last finding stands, and the pod comes again.
	Judge func(context.Context, *corev1.Pod) (Finding, error)
	Again <-chan struct{}

	Resync  time.Duration         // the owner of a pod left out is told again this often; 0: 10 min
	Log     *slog.Logger          // nil: no log
	Metrics prometheus.Registerer // nil: no metrics
}

// Finding is what is wrong with a pod; the zero value is a pod that is as it should
// be.
type Finding struct {
	LeftOut string // why the pod has no sidecar though its namespace wants one, a sentence
	Meant   bool   // somebody wanted it so: its owner is told, and it is not counted
	Drifted bool   // the pod would be made differently today
}

// uncalled reports whether the pod was left out against everybody's will.
func (f Finding) uncalled() bool { return f.LeftOut != "" && !f.Meant }

// AuditPods returns a part for the leader: pods left out and drifted are counted,
// and the owner of a pod left out, the Deployment of its ReplicaSet, gets an Event
// SidecarMissing: one for each reason as long as the API server keeps Events. No pod
// is changed.
func (a *API) AuditPods(p PodAudit) func(context.Context) error {
	return func(ctx context.Context) error {
		l, err := newAuditLoop(a, p)
		if err != nil {
			return err
		}
		defer func() { // from now on the next leader tells
			l.leftOut.Set(0)
			l.drifted.Set(0)
		}()
		return l.run(ctx)
	}
}

type auditLoop struct {
	*loop
	PodAudit
	api     *API
	pods    cache.Indexer // packedPod
	limiter flowcontrol.RateLimiter

	mu               sync.Mutex
	findings         map[key]Finding      // of pods with something wrong
	told             map[string]time.Time // when whom, by the name that the Event on the pod's own owner would have
	nLeftOut, nDrift int
	leftOut, drifted prometheus.Gauge
}

func newAuditLoop(a *API, p PodAudit) (*auditLoop, error) {
	if p.Resync <= 0 {
		p.Resync = defaultResync
	}
	l := &auditLoop{
		loop: newLoop(workers, p.Log), PodAudit: p, api: a,
		limiter:  flowcontrol.NewTokenBucketRateLimiter(tellQPS, tellBurst),
		findings: map[key]Finding{}, told: map[string]time.Time{},
	}
	l.sync = l.audit
	var err error
	if l.leftOut, err = registered(p.Metrics, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "injector_pods_left_out",
		Help: "Pods without a sidecar whose namespace wants one and that nobody exempted, as the leader sees them.",
	})); err != nil {
		return nil, err
	}
	if l.drifted, err = registered(p.Metrics, prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "injector_pods_drifted",
		Help: "Pods that would be made differently by today's configuration, as the leader sees them.",
	})); err != nil {
		return nil, err
	}
	pods := newPodInformer(a.Client)
	l.pods = pods.GetIndexer()
	l.heed(p.Again, l.pods)
	return l, l.watchTrimmed(pods, packPod, l.enqueue)
}

// audit judges one pod and tells its owner.
func (l *auditLoop) audit(ctx context.Context, k key) (again time.Duration, err error) {
	packed, err := find[packedPod](l.pods, k)
	if err != nil || packed == nil {
		l.record(k, Finding{})
		return 0, err
	}
	pod, err := packed.unpack()
	if err != nil {
		return 0, err
	}
	owner := ownerOfPod(pod)
	var finding Finding
	if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		if finding, err = l.Judge(ctx, pod); err != nil {
			return 0, fmt.Errorf("pod not judged: %w", err)
		}
	}
	l.record(k, finding)
	if finding.LeftOut == "" {
		return 0, nil
	}
	name := eventName(owner, finding.LeftOut)
	again = wait.Jitter(l.Resync*4/5, 0.25)
	if !l.claim(name, time.Now()) {
		return again, nil
	}
	if !l.limiter.TryAccept() {
		l.unclaim(name)
		return wait.Jitter(tellLater, 1), nil
	}
	if err := l.tell(ctx, k.Name, owner, finding.LeftOut); err != nil {
		l.unclaim(name)
		return 0, fmt.Errorf("event: %w", err)
	}
	return again, nil
}

func (l *auditLoop) record(k key, f Finding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.findings[k]
	l.nLeftOut += one(f.uncalled()) - one(before.uncalled())
	l.nDrift += one(f.Drifted) - one(before.Drifted)
	if f == (Finding{}) {
		delete(l.findings, k)
	} else {
		l.findings[k] = f
	}
	l.leftOut.Set(float64(l.nLeftOut))
	l.drifted.Set(float64(l.nDrift))
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// claim reports whether the caller is to write the Event, which nobody has written
// for a while or is about to.
func (l *auditLoop) claim(event string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.told, func(_ string, at time.Time) bool { return now.Sub(at) >= l.Resync/2 })
	_, lately := l.told[event]
	if !lately {
		l.told[event] = now
	}
	return !lately
}

func (l *auditLoop) unclaim(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.told, event)
}

// tell writes the Event on the pod's owner, or on the owner of that if it is a
// ReplicaSet.
func (l *auditLoop) tell(ctx context.Context, pod string, owner corev1.ObjectReference, why string) error {
	// The name is what the pod's maker wrote, and would be part of a path.
	if owner.APIVersion == "apps/v1" && owner.Kind == "ReplicaSet" && len(content.IsPathSegmentName(owner.Name)) == 0 {
		set, err := l.api.metadata.Resource(appsv1.SchemeGroupVersion.WithResource("replicasets")).
			Namespace(owner.Namespace).Get(ctx, owner.Name, metav1.GetOptions{})
		switch {
		case err == nil && set.UID == owner.UID:
			owner = controllerOr(owner, set)
		case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
			return err
		}
	}
	return l.api.warn(ctx, warning{
		name: eventName(owner, why), about: owner, reason: "SidecarMissing",
		message: fmt.Sprintf("pod %s has no sidecar: %s", pod, why),
		by:      mesh.InjectorFieldManager,
	})
}

// ownerOfPod is whom people look at to see about a pod: its controller, or the pod
// itself where it has none, or has a node for it.
func ownerOfPod(pod *corev1.Pod) corev1.ObjectReference {
	self := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
	if owner := controllerOr(self, pod); owner.Kind != "Node" {
		return owner
	}
	return self
}

// controllerOr returns the controller of an object, or other where it has none.
func controllerOr(other corev1.ObjectReference, of metav1.Object) corev1.ObjectReference {
	c := metav1.GetControllerOf(of)
	if c == nil {
		return other
	}
	return corev1.ObjectReference{APIVersion: c.APIVersion, Kind: c.Kind, Namespace: of.GetNamespace(), Name: c.Name, UID: c.UID}
}

// eventName is the same for the same owner and reason.
func eventName(owner corev1.ObjectReference, why string) string {
	sum := sha256.Sum256([]byte(string(owner.UID) + "\n" + why))
	return fmt.Sprintf("sidecar-missing.%x", sum[:12])
}
