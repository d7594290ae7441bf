package main

import (
	"context"
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
	files     bool   // the plugged-in CA is in files, not in a Secret
	log       *slog.Logger

	told map[string]bool // by ID, for longer than the API server keeps Events
}

func (k *keyring) newWarner() *warner {
	return &warner{
		status: k.authority.Status, write: k.api.WarnOfSecret, namespace: k.settings.caNamespace, files: k.settings.keys.fromFiles(),
		log: k.log, told: map[string]bool{},
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

// warn writes what is new. What could not be written is still new the next time.
func (w *warner) warn(ctx context.Context, now time.Time) {
	for _, warning := range w.status().Warnings(now) {
		if w.told[warning.ID] || ctx.Err() != nil {
			continue
		}
		if warning.Secret == mesh.PluggedSecret && w.files {
			warning.Secret = mesh.IntermediateSecret // which holds the note that a CA is plugged in
		}
		if err := w.write(ctx, cluster.SecretWarning{
			Namespace: w.namespace, Secret: warning.Secret, ID: warning.ID, Reason: warning.Reason, Message: warning.Message,
		}); err != nil {
			w.log.WarnContext(ctx, "warning about the CA not written as an Event", "reason", warning.Reason, "err", err)
			continue
		}
		w.told[warning.ID] = true
	}
}
