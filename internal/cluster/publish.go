package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// Publication is one key of a ConfigMap, which this process keeps at the newest value
// of something. Other processes keep other keys of the same ConfigMap.
type Publication struct {
	Namespace, Name, Key string
	// Newest returns the value, a JSON object with its time under "time"; false: there is
	// none yet.
	Newest func() (string, bool)

	Every time.Duration // least time between two writes; 0: 10 s
	Keys  int           // most keys; beyond them the oldest go; 0: 64
	Log   *slog.Logger  // nil: no log
}

// KeepPublished returns a part that writes a publication whenever there is a newer
// value.
func (a *API) KeepPublished(p Publication) func(context.Context) error {
	if p.Every <= 0 {
		p.Every = 10 * time.Second
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	return func(ctx context.Context) error {
		pause := min(time.Second, p.Every) // until there is a first one
		published := ""
		for {
			if value, ok := p.Newest(); ok && value != published {
				pause = p.Every
				if err := a.Publish(ctx, p); err == nil {
					published = value
				} else if ctx.Err() == nil {
					p.Log.WarnContext(ctx, "published nothing", "err", err)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
		}
	}
}

// Publish writes a publication once, by server-side apply of its key alone.
func (a *API) Publish(ctx context.Context, p Publication) error {
	value, ok := p.Newest()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	found, err := a.Client.CoreV1().ConfigMaps(p.Namespace).Apply(ctx,
		coreapply.ConfigMap(p.Name, p.Namespace).
			WithLabels(map[string]string{mesh.ManagedByLabel: mesh.ManagedBy}).
			WithData(map[string]string{p.Key: value}),
		// Under one name for all, each would remove the key that another has applied.
		metav1.ApplyOptions{FieldManager: managerOf(p.Key), Force: true})
	if err == nil {
		err = a.forget(ctx, p, found)
	}
	if err != nil {
		return fmt.Errorf("config map %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// maxManager is the longest name of a field manager that the API server takes.
const maxManager = 128

func managerOf(key string) string {
	name := mesh.CitadelFieldManager + "-" + key
	if len(name) <= maxManager {
		return name
	}
	sum := sha256.Sum256([]byte(key))
	return mesh.CitadelFieldManager + "-" + hex.EncodeToString(sum[:16])
}

// forget removes the oldest keys of a ConfigMap that has too many: every replica that
// ever was has left one, and a ConfigMap that is full takes no more.
func (a *API) forget(ctx context.Context, p Publication, found *corev1.ConfigMap) error {
	most := p.Keys
	if most <= 0 {
		most = 64
	}
	old := oldest(found.Data, p.Key, len(found.Data)-most)
	if len(old) == 0 {
		return nil
	}
	gone := map[string]any{}
	for _, key := range old {
		gone[key] = nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": found.ResourceVersion}, // else a newer value might go
		"data":     gone,
	})
	if err != nil {
		return err
	}
	_, err = a.Client.CoreV1().ConfigMaps(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: mesh.CitadelFieldManager})
	if transient(err) {
		return nil // the next time
	}
	return err
}

// oldest returns the n keys but own whose values have the earliest time, those without
// one first.
func oldest(data map[string]string, own string, n int) []string {
	if n <= 0 {
		return nil
	}
	at := map[string]time.Time{}
	var keys []string
	for key, value := range data {
		if key == own {
			continue
		}
		var dated struct{ Time time.Time }
		if json.Unmarshal([]byte(value), &dated) == nil {
			at[key] = dated.Time
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int {
		if c := at[a].Compare(at[b]); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	return keys[:min(n, len(keys))]
}
