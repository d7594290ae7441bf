//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/garrison-mesh/garrison/hack/cluster/internal/host"
)

// downTimeout is how long the kernel may take to end a cluster's processes.
const downTimeout = time.Minute

// down ends the cluster, whatever state it is in, and says so if there is none.
func (l *lab) down(ctx context.Context) error {
	found, err := host.Find(l.cluster)
	if err != nil {
		return err
	}
	if found.Empty() {
		if _, err := os.Stat(l.state()); err != nil {
			l.say("cluster %q is not up", l.cluster)
			return nil
		}
	}
	if err := supported(); err != nil {
		return err
	}
	if err := l.ours(found); err != nil {
		return err
	}
	unlock, err := l.lock(l.file("lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.clean(ctx); err != nil {
		return err
	}
	l.say("cluster %q is down; its logs are in %s", l.cluster, l.logs())
	return nil
}

// clean removes all of the cluster but its logs. State goes as a whole: a
// container runtime and an etcd that remember different pods do not agree again.
func (l *lab) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	errs := []error{host.Remove(ctx, l.cluster, l.dir())}
	for _, path := range []string{l.state(), l.kubeconfig(), l.file("sa.key"), l.file("bin")} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}
