package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/ledger"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// toStdout is the setting by which the record goes to standard output, where nothing
// else does.
const toStdout = "stdout"

// record is the issuance log, and how its checkpoints get out of the pod.
type record struct {
	*ledger.Log
	api         *cluster.API
	publication cluster.Publication
}

type recordOptions struct {
	settings
	stdout io.Writer
	log    *slog.Logger
}

// openRecord begins or goes on with the issuance log.
func openRecord(ctx context.Context, api *cluster.API, o recordOptions) (*record, error) {
	key, err := checkpointKey(ctx, api, o.namespace)
	if err != nil {
		return nil, err
	}
	options := ledger.Options{Replica: o.pod, Key: key, NoSync: !o.syncLog, Log: o.log}
	r := &record{api: api}
	if o.issuanceLog == toStdout {
		r.Log, err = ledger.New(o.stdout, options)
	} else {
		r.Log, err = ledger.OpenDir(o.issuanceLog, options)
	}
	if err != nil {
		return nil, err
	}
	r.publication = cluster.Publication{
		Namespace: o.namespace, Name: mesh.IssuanceLogConfigMap, Key: o.pod, Log: o.log,
		Newest: func() (string, bool) {
			c, ok := r.Newest()
			if !ok {
				return "", false
			}
			text, err := json.Marshal(c)
			return string(text), err == nil
		},
	}
	return r, nil
}

// checkpointKey reads the key that all replicas sign checkpoints with, or makes it if
// there is none. It is not the CA's: whoever has that one can issue, and must not be
// able to cover it up by the same means.
func checkpointKey(ctx context.Context, api *cluster.API, namespace string) (crypto.Signer, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	secret, err := api.CreateOrRead(ctx, namespace, mesh.IssuanceLogSecret, func() (*corev1.Secret, error) {
		key, err := ledger.NewKey()
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{mesh.ManagedByLabel: mesh.ManagedBy}},
			Data:       map[string][]byte{mesh.IssuanceLogKey: key},
		}, err
	})
	if err != nil {
		return nil, err
	}
	key, err := ledger.ParseKey(secret.Data[mesh.IssuanceLogKey])
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %s: %w", namespace, mesh.IssuanceLogSecret, mesh.IssuanceLogKey, err)
	}
	return key, nil
}

// publishTimeout bounds the last publication: the process is to end.
const publishTimeout = 3 * time.Second

// close ends the log after all parts have ended, of which err is what came, and
// publishes how it ended. Where that cannot be done the log itself is whole, and whoever
// stopped the process would only be told of a failure that nobody can mend any more.
func (r *record) close(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	err = errors.Join(err, r.Close())
	if unpublished := r.api.Publish(ctx, r.publication); unpublished != nil {
		r.publication.Log.WarnContext(ctx, "last checkpoint was not published; "+
			"that nothing is missing after the one before can be told from the log alone", "err", unpublished)
	}
	return err
}
