package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func testCreateOrRead(t *testing.T, l lab) {
	const ns, name = "create-or-read", "root"
	l.namespace(t, ns, nil)
	api := l.as(t, allow("", "secrets", "create"), allow("", "secrets", "get", name))

	t.Run("make fails", func(t *testing.T) {
		broken := errors.New("no entropy")
		_, err := api.CreateOrRead(t.Context(), ns, name, func() (*corev1.Secret, error) { return nil, broken })
		if !errors.Is(err, broken) {
			t.Errorf("%v, want %v", err, broken)
		}
	})

	t.Run("no right", func(t *testing.T) {
		_, err := api.CreateOrRead(t.Context(), ns, "other", func() (*corev1.Secret, error) { return &corev1.Secret{}, nil })
		if !apierrors.IsForbidden(err) {
			t.Errorf("%v, want forbidden", err)
		}
	})

	t.Run("race", func(t *testing.T) {
		const racers = 8
		var start, done sync.WaitGroup
		var made atomic.Int32
		got := make([]*corev1.Secret, racers)
		start.Add(racers)
		for i := range racers {
			done.Go(func() {
				start.Done()
				start.Wait()
				var err error
				got[i], err = api.CreateOrRead(t.Context(), ns, name, func() (*corev1.Secret, error) {
					made.Add(1)
					return &corev1.Secret{Data: map[string][]byte{"by": fmt.Append(nil, i)}}, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		t.Logf("%d of %d made one", made.Load(), racers)
		for i, secret := range got {
			if secret == nil || secret.UID != got[0].UID || string(secret.Data["by"]) != string(got[0].Data["by"]) {
				t.Errorf("racer %d has %v", i, secret)
			}
		}
	})

	t.Run("no API server", func(t *testing.T) {
		config := *l.config
		config.Host = "https://127.0.0.1:1"
		api, err := open(&config)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := api.CreateOrRead(ctx, ns, name, nil); err == nil || time.Since(start) < 500*time.Millisecond {
			t.Errorf("%v after %v, want patience", err, time.Since(start))
		}
	})
}
