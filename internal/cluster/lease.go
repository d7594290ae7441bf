package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Lease is a coordination.k8s.io Lease that at most one process holds.
type Lease struct {
	Namespace string
	Name      string
	Identity  string // of this process: unique among all that stand, the pod's name
	Log       *slog.Logger

	// Duration is how long the others wait for a holder that is silent, 0 for
	// 15 s: the longest takeover after a crash. A holder that could not renew for
	// RenewDeadline (0: 10 s) has lost; attempts are RetryPeriod (0: 2 s) apart.
	Duration      time.Duration
	RenewDeadline time.Duration
	RetryPeriod   time.Duration
}

func (l Lease) withDefaults() Lease {
	if l.Duration == 0 {
		l.Duration = 15 * time.Second
	}
	if l.RenewDeadline == 0 {
		l.RenewDeadline = 10 * time.Second
	}
	if l.RetryPeriod == 0 {
		l.RetryPeriod = 2 * time.Second
	}
	if l.Log == nil {
		l.Log = slog.New(slog.DiscardHandler)
	}
	return l
}

// Lead stands for the lease and calls run while this process holds it. When the
// lease is lost, run's context ends; Lead waits for run, then stands again. When
// ctx ends it waits for run too, gives the lease up so that the next leader need
// not wait, and returns nil. A run that returns by itself ends Lead with what it
// returned.
//
// Until run returns the lease is not given up: the next leader never works beside
// this one, unless run takes more than Duration - RenewDeadline to notice that its
// context has ended.
func (a *API) Lead(ctx context.Context, l Lease, run func(ctx context.Context) error) error {
	l = l.withDefaults()
	for ctx.Err() == nil {
		done, err := a.term(ctx, l, run)
		if err != nil {
			return fmt.Errorf("lease %s/%s: %w", l.Namespace, l.Name, err)
		}
		if done {
			return nil
		}
	}
	return nil
}

// term stands once and leads at most once. It reports whether run ended by itself.
//
// The elector's own release on cancel would give the lease up while run is still
// stopping. So the elector hears of the end of ctx only when run has returned, and
// the lease is released here.
func (a *API) term(ctx context.Context, l Lease, run func(context.Context) error) (done bool, err error) {
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Name},
		Client:     a.leases.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: l.Identity},
	}
	elected := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          lock,
		Name:          l.Name,
		LeaseDuration: l.Duration,
		RenewDeadline: l.RenewDeadline,
		RetryPeriod:   l.RetryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(holding context.Context) { elected <- holding },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return false, err
	}
	standing, resign := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	go func() { // owned here: every path below resigns and waits
		defer close(over)
		elector.Run(standing)
	}()
	select {
	case holding := <-elected:
		l.Log.InfoContext(ctx, "became leader", "lease", l.Name, "identity", l.Identity)
		leading, stop := context.WithCancel(holding)
		unhook := context.AfterFunc(ctx, stop)
		err = run(leading)
		done = leading.Err() == nil
		unhook()
		stop()
		if !done {
			l.Log.InfoContext(ctx, "stopped leading", "lease", l.Name, "identity", l.Identity, "err", err)
			err = nil // the work was cut short, and the next leader does it again
		}
	case <-ctx.Done():
	case <-over: // elected and lost before the callback was heard
	}
	resign()
	<-over
	if done || ctx.Err() != nil {
		l.release(ctx, lock)
	}
	return done, err
}

// release gives up the lease if this process still holds it. The update carries
// the resource version just read, so a new holder's lease is left alone. Should it
// fail, the lease runs out by itself.
func (l Lease) release(ctx context.Context, lock *resourcelock.LeaseLock) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.RetryPeriod)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if apierrors.IsNotFound(err) {
		return
	}
	if err == nil && record.HolderIdentity == l.Identity {
		now := metav1.Now()
		err = lock.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaseDurationSeconds: 1,
			AcquireTime:          now,
			RenewTime:            now,
			LeaderTransitions:    record.LeaderTransitions,
		})
	}
	if err != nil {
		l.Log.WarnContext(ctx, "lease not released", "lease", l.Name, "err", err)
	}
}
