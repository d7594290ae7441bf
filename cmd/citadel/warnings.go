package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// warnEvery is how often the leader looks whether there is something to warn of, which
// asks nobody.
const warnEvery = time.Minute

// warner writes Events where people look at the CA: at its Secrets. Its run is a part of
// the leader's.
type warner struct {
	status    func() ca.Status
	write     func(context.Context, cluster.SecretWarning) error
	namespace string // of the Secrets
	plugged   string // the namespace of a plugged-in CA; empty: it is in files
	log       *slog.Logger

	marks marks // of what was told, whoever told it
	// told is what need not be written again, by ID: true where it is marked, false where this
	// process wrote the Event and could not leave the mark.
	told map[string]bool
}

// marks are left by one leader for all later ones.
type marks interface {
	Has(ctx context.Context, mark string) (bool, error)
	Leave(ctx context.Context, mark string) error
}

func (k *keyring) newWarner() *warner {
	plugged := k.settings.namespace
	if k.settings.keys.fromFiles() {
		plugged = ""
	}
	return &warner{
		status: k.authority.Status, write: k.api.WarnOfSecret, namespace: k.settings.caNamespace, plugged: plugged,
		log: k.log, marks: k.api.LeaseMarks(k.settings.namespace, mesh.CitadelLease), told: map[string]bool{},
	}
}

// run warns until ctx ends. It may be called again, and then does not repeat itself.
func (w *warner) run(ctx context.Context) error {
	tick := time.NewTicker(warnEvery)
	defer tick.Stop()
	for {
		w.warn(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// warn tells what nobody told before. What could not be told is still new the next time.
func (w *warner) warn(ctx context.Context, now time.Time) {
	for _, warning := range w.status().Warnings(now) {
		if ctx.Err() != nil {
			return
		}
		if err := w.tell(ctx, warning); err != nil {
			w.log.WarnContext(ctx, "warning about the CA not told", "reason", warning.Reason, "err", err)
		}
	}
}

// tell writes the Event, then the mark: a leader that ends in between has its successor
// write it again at once, which the API server takes for the same, and never leaves it out.
func (w *warner) tell(ctx context.Context, warning ca.Warning) error {
	marked, told := w.told[warning.ID]
	if marked {
		return nil
	}
	if !told {
		before, err := w.marks.Has(ctx, warning.ID)
		if err != nil {
			return err
		}
		if before {
			w.told[warning.ID] = true
			return nil
		}
		namespace := w.namespace
		switch {
		case warning.Secret != mesh.PluggedSecret:
		case w.plugged == "":
			warning.Secret = mesh.IntermediateSecret // which holds the note that a CA is plugged in
		default:
			namespace = w.plugged
		}
		if err := w.write(ctx, cluster.SecretWarning{
			Namespace: namespace, Secret: warning.Secret, ID: warning.ID, Reason: warning.Reason, Message: warning.Message,
		}); err != nil {
			return err
		}
		w.told[warning.ID] = false
	}
	if err := w.marks.Leave(ctx, warning.ID); err != nil {
		return fmt.Errorf("written, but not marked: %w", err)
	}
	w.told[warning.ID] = true
	return nil
}
