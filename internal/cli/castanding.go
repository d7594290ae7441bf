package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// standingReader reads how Citadel in a namespace stands.
type standingReader struct {
	client    kubernetes.Interface
	namespace string
	now       time.Time
}

// read returns an error only where nothing could be read at all.
func (r standingReader) read(ctx context.Context) (*caStanding, error) {
	s := &caStanding{
		Replicas: []replica{}, Checkpoints: []lastCheckpoint{}, Revocations: []ca.Revocation{},
		Attention: []string{}, Notes: []string{}, Unread: []string{},
	}
	var errs []error
	unread := func(err error) {
		errs = append(errs, err)
		s.Unread = append(s.Unread, oneLine(err))
	}

	state := readCA(ctx, r.client, r.namespace)
	for _, err := range state.unread {
		unread(err)
	}
	s.judge(state, r.now)

	read := 0
	lease, err := r.client.CoordinationV1().Leases(r.namespace).Get(ctx, mesh.CitadelLease, metav1.GetOptions{})
	switch {
	case err == nil, apierrors.IsNotFound(err):
		read++
		if s.Leader = leads(lease, r.now); !s.Leader.Leads {
			s.Attention = append(s.Attention, "nobody leads, so no Secret is written or renewed")
		}
	default:
		unread(fmt.Errorf("lease %s/%s: %w", r.namespace, mesh.CitadelLease, err))
	}

	pods, err := r.client.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: citadelSelector})
	if err != nil {
		unread(fmt.Errorf("pods of Citadel: %w", err))
	} else {
		read++
		s.look(pods.Items)
	}

	log, err := r.client.CoreV1().ConfigMaps(r.namespace).Get(ctx, mesh.IssuanceLogConfigMap, metav1.GetOptions{})
	switch {
	case err == nil:
		read++
		s.published(log.Data)
	case apierrors.IsNotFound(err):
		read++
		s.Notes = append(s.Notes, "no checkpoint of an issuance log is published")
	default:
		unread(fmt.Errorf("configmap %s/%s: %w", r.namespace, mesh.IssuanceLogConfigMap, err))
	}
	revoked, err := r.client.CoreV1().ConfigMaps(r.namespace).Get(ctx, mesh.RevocationsConfigMap, metav1.GetOptions{})
	switch {
	case err == nil:
		read++
		s.revoked(revoked, r.now)
	case apierrors.IsNotFound(err):
		read++
	default:
		unread(fmt.Errorf("configmap %s/%s: %w", r.namespace, mesh.RevocationsConfigMap, err))
	}
	if read == 0 && s.Signs == nil {
		return nil, errs[len(errs)-1]
	}
	return s, nil
}

// judge says what signs. That it may not be read is no fault of the CA.
func (s *caStanding) judge(state caState, now time.Time) {
	authority, err := state.authority(now)
	switch {
	case err == nil:
		status := authority.Status()
		s.Signs = &status
		if err := authority.Ready(now); err != nil {
			s.Attention = append(s.Attention, "nothing can be signed: "+oneLine(err))
		}
		notices, urgent := status.Notices(now)
		if urgent {
			s.Attention = append(s.Attention, notices...)
		} else {
			s.Notes = append(s.Notes, notices...)
		}
	case state.hidden():
		s.Unread = append(s.Unread, "what signs cannot be told: "+oneLine(err))
	default:
		s.Attention = append(s.Attention, "what is there cannot sign: "+oneLine(err))
	}
}

// leads tells from a lease, which may be nil or empty, who leads.
func leads(lease *coordinationv1.Lease, now time.Time) leadership {
	if lease == nil {
		return leadership{}
	}
	spec := lease.Spec
	if spec.HolderIdentity == nil || spec.RenewTime == nil || spec.LeaseDurationSeconds == nil {
		return leadership{}
	}
	l := leadership{Holder: *spec.HolderIdentity, Renewed: spec.RenewTime.Time}
	l.Leads = l.Holder != "" && now.Before(l.Renewed.Add(time.Duration(*spec.LeaseDurationSeconds)*time.Second))
	return l
}

// look tells from Citadel's pods how the replicas are.
func (s *caStanding) look(pods []corev1.Pod) {
	var not []string
	staying := 0
	for i := range pods {
		pod := &pods[i]
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		r := replicaOf(pod)
		s.Replicas = append(s.Replicas, r)
		if pod.DeletionTimestamp != nil { // it need not be ready any more
			continue
		}
		if staying++; !r.Ready {
			not = append(not, r.Pod)
		}
	}
	slices.SortFunc(s.Replicas, func(a, b replica) int { return strings.Compare(a.Pod, b.Pod) })
	slices.Sort(not)
	switch {
	case staying == 0:
		s.Attention = append(s.Attention, "no pod of Citadel runs")
	case len(not) > 0:
		s.Attention = append(s.Attention, "not ready: "+strings.Join(not, ", "))
	}
}

func replicaOf(pod *corev1.Pod) replica {
	r := replica{Pod: pod.Name, Node: pod.Spec.NodeName, Why: string(pod.Status.Phase)}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			r.Ready, r.Since = c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
			r.Why = cmp.Or(c.Message, r.Why)
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name != citadelContainer {
			continue
		}
		r.Restarts = c.RestartCount
		if w := c.State.Waiting; w != nil {
			r.Why = cmp.Or(w.Reason, r.Why)
		}
		if t := c.LastTerminationState.Terminated; t != nil && !r.Ready {
			r.Why += fmt.Sprintf("; ended before with code %d, %s", t.ExitCode, t.Reason)
		}
	}
	switch {
	case r.Ready:
		r.Why = ""
	case pod.DeletionTimestamp != nil:
		r.Why = "terminating"
	}
	return r
}

// published tells how far each replica has published its log. A checkpoint that is none
// does not hide the others.
func (s *caStanding) published(data map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		one, err := checkpoints(map[string]string{key: data[key]})
		if err != nil {
			s.Attention = append(s.Attention, "checkpoint "+oneLine(err))
			continue
		}
		for _, c := range one {
			runs := slices.ContainsFunc(s.Replicas, func(r replica) bool { return r.Pod == c.Replica })
			s.Checkpoints = append(s.Checkpoints, lastCheckpoint{Replica: c.Replica, Seq: c.Seq, Time: c.Time, Head: c.Head, Runs: runs})
		}
	}
	slices.SortStableFunc(s.Checkpoints, func(a, b lastCheckpoint) int { return b.Time.Compare(a.Time) })
}

// revoked tells who is refused. Of a ConfigMap that cannot be read to the letter, Citadel
// takes nothing: replicas go on with what they had.
func (s *caStanding) revoked(m *corev1.ConfigMap, now time.Time) {
	set := ca.NewRevocations(ca.RevocationsOptions{Own: serverAccount(m.Namespace, mesh.CitadelService)})
	_, err := set.Set(m)
	var all []ca.Revocation
	if err == nil {
		all, err = ca.ParseRevocations(m.Data)
	}
	if err != nil {
		s.Attention = append(s.Attention, fmt.Sprintf("configmap %s is not in force: %s", m.Name, oneLine(err)))
		return
	}
	s.Revocations = append(s.Revocations, all...)
	for _, id := range set.Spared(now) {
		s.Attention = append(s.Attention, "undo the revocation of "+id+": it is what Citadel itself serves as, and its Secret is kept all the same")
	}
}
