package cluster

import (
	"context"
	"errors"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// scrubPage is how many Secrets are read at a time in passing over all of them.
const scrubPage = 100

// scrub passes over the content of all Secrets, at once and then again and again. What
// is wrong goes to the workers, which read it themselves before they touch it.
func (s *secretLoop) scrub(ctx context.Context) {
	for {
		if err := s.pass(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			s.log.WarnContext(ctx, "secrets not scrubbed", "err", err)
			if !sleep(ctx, wait.Jitter(lastRetry/2, 1)) {
				return
			}
			continue
		}
		s.metrics.scrubEnd.SetToCurrentTime()
		s.patient.Store(0)
		for _, store := range s.secrets { // the rest: what changed while the pass went on, or was not in it
			s.enqueueUnread(store)
		}
		if !sleep(ctx, wait.Jitter(s.ScrubInterval*4/5, 0.5)) {
			return
		}
	}
}

// pass reads all Secrets once.
func (s *secretLoop) pass(ctx context.Context) error {
	for _, namespace := range s.Namespaces {
		options := metav1.ListOptions{Limit: scrubPage}
		onlyOurType(&options)
		for {
			page, err := s.api.bulk.CoreV1().Secrets(namespace).List(ctx, options)
			if more := resumed(err); more != "" { // the pass took longer than the API server keeps its place
				options.Continue = more
				continue
			}
			if err != nil {
				return err
			}
			for i := range page.Items {
				if err := s.inspect(&page.Items[i]); err != nil {
					return err
				}
			}
			s.metrics.scrubbed.Add(float64(len(page.Items)))
			if options.Continue = page.Continue; options.Continue == "" {
				break
			}
			if !sleep(ctx, time.Duration(float64(len(page.Items))/s.ScrubRate*float64(time.Second))) {
				return ctx.Err()
			}
		}
	}
	return nil
}

// inspect checks one Secret of a page.
func (s *secretLoop) inspect(secret *corev1.Secret) error {
	name, ok := strings.CutPrefix(secret.Name, mesh.WorkloadSecretPrefix)
	if !ok {
		return nil
	}
	k := key{Namespace: secret.Namespace, Name: name}
	account, wanted, err := s.account(k)
	if err != nil || !wanted {
		return err
	}
	basis := s.Basis(account)
	do := s.judge(account, secret, time.Now())
	if do.change == none && !do.renew.IsZero() {
		s.verdicts.good(k, account, secret, basis, do.renew)
	} else {
		s.verdicts.doubt(k)
	}
	s.queue.Add(k)
	return nil
}

// enqueueUnread has the workers look at all Secrets without a verdict.
func (s *secretLoop) enqueueUnread(store cache.Indexer) {
	for _, obj := range store.List() {
		seen, ok := obj.(*secretSight)
		if !ok {
			continue
		}
		account, ok := strings.CutPrefix(seen.name, mesh.WorkloadSecretPrefix)
		k := key{Namespace: seen.namespace.Value(), Name: account}
		if last, _ := s.verdicts.of(k); ok && last.version != seen.version {
			s.queue.Add(k)
		}
	}
}

// resumed returns where to go on with a list whose place has been forgotten, "" where
// that is not what err is about.
func resumed(err error) string {
	if status := apierrors.APIStatus(nil); apierrors.IsResourceExpired(err) && errors.As(err, &status) {
		return status.Status().Continue
	}
	return ""
}

// sleep reports whether ctx is still alive after d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
