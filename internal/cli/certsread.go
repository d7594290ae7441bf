package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/mesh"
)

// certReader goes through the places that hold certificates.
type certReader struct {
	client    kubernetes.Interface
	namespace string // "" for all
	metadata  bool   // leave the content of accounts' Secrets where it is
	page      int    // how many Secrets are held at a time; 0: 500
	now       time.Time

	roots  ca.RootsInUse
	found  []heldAt
	unread []error // what the list is not about, and why
}

// read finds all, and sorts it by when it ends.
func (r *certReader) read(ctx context.Context) {
	r.found = []heldAt{}
	state := readCA(ctx, r.client, mesh.SystemNamespace)
	r.unread = append(r.unread, state.unread...)
	roots, from, err := state.inUse(r.now)
	r.roots = roots
	switch {
	case err != nil && from != "":
		r.unread = append(r.unread, fmt.Errorf("what signs cannot be told: %w; the roots in use are taken from %s", err, from))
	case err != nil:
		r.unread = append(r.unread, fmt.Errorf("which roots are in use cannot be told: %w", err))
	}
	if r.namespace == "" || r.namespace == state.namespace || r.namespace == mesh.SystemNamespace {
		for _, s := range state.secrets {
			for _, h := range r.roots.CASecret(s, r.now) {
				r.add("secret", s.ObjectMeta, h)
			}
		}
		r.note(r.webhooks(ctx))
	}
	r.note(r.configMaps(ctx))
	if r.metadata {
		r.note(r.annotations(ctx))
	} else {
		r.note(r.secrets(ctx))
	}
	slices.SortStableFunc(r.found, func(a, b heldAt) int {
		return cmp.Or(a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}

func (r *certReader) note(err error) {
	if err != nil {
		r.unread = append(r.unread, err)
	}
}

func (r *certReader) add(kind string, at metav1.ObjectMeta, h ca.Held) {
	r.found = append(r.found, heldAt{Kind: kind, Namespace: at.Namespace, Name: at.Name, Held: h})
}

// accountSecrets selects by type: others have no business here, and their content none
// on the way.
const accountSecrets = "type=" + mesh.WorkloadSecretType

func (r *certReader) secrets(ctx context.Context) error {
	for next := ""; ; {
		list, err := r.client.CoreV1().Secrets(r.namespace).List(ctx, metav1.ListOptions{
			FieldSelector: accountSecrets, Limit: int64(cmp.Or(r.page, 500)), Continue: next,
		})
		if err != nil {
			return fmt.Errorf("secrets of service accounts: %w", err)
		}
		for i := range list.Items {
			r.add("secret", list.Items[i].ObjectMeta, r.roots.Secret(&list.Items[i], r.now))
		}
		if next = list.Continue; next == "" {
			return nil
		}
	}
}

// annotations asks for the metadata of Secrets alone. To the API server that takes the
// same right as all of them.
func (r *certReader) annotations(ctx context.Context) error {
	for next := ""; ; {
		request := r.client.CoreV1().RESTClient().Get().
			SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").
			Namespace(r.namespace).Resource("secrets").
			Param("fieldSelector", accountSecrets).Param("limit", strconv.Itoa(cmp.Or(r.page, 500)))
		if next != "" {
			request = request.Param("continue", next)
		}
		var list metav1.PartialObjectMetadataList // of no group that the client knows
		answer := request.Do(ctx)
		err := answer.Error()
		if err == nil {
			var raw []byte
			if raw, err = answer.Raw(); err == nil {
				err = json.Unmarshal(raw, &list)
			}
		}
		if err != nil {
			return fmt.Errorf("metadata of secrets of service accounts: %w", err)
		}
		for _, s := range list.Items {
			r.add("secret", s.ObjectMeta, r.roots.Annotations(s.ObjectMeta, r.now))
		}
		if next = list.Continue; next == "" {
			return nil
		}
	}
}

func (r *certReader) configMaps(ctx context.Context) error {
	list, err := r.client.CoreV1().ConfigMaps(r.namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + mesh.RootConfigMap})
	if err != nil {
		return fmt.Errorf("configmaps %s: %w", mesh.RootConfigMap, err)
	}
	for _, m := range list.Items {
		r.add("configmap", m.ObjectMeta, r.roots.Bundle([]byte(m.Data[mesh.RootKey]), r.now))
	}
	return nil
}

// webhooks lists each bundle of a configuration once: all its entries should have the same.
func (r *certReader) webhooks(ctx context.Context) error {
	configs, err := (&live{client: r.client}).webhooks(ctx)
	if err != nil {
		return err
	}
	for _, config := range configs {
		var bundles []string
		entries := map[string][]string{}
		for _, e := range config.Webhooks {
			bundle := string(e.ClientConfig.CABundle)
			if entries[bundle] == nil {
				bundles = append(bundles, bundle)
			}
			entries[bundle] = append(entries[bundle], e.Name)
		}
		for _, bundle := range bundles {
			h := heldAt{Kind: "mutatingwebhookconfiguration", Name: config.Name, Held: r.roots.Bundle([]byte(bundle), r.now)}
			if h.Entries = entries[bundle]; len(bundles) > 1 {
				h.Problems = append(h.Problems, fmt.Sprintf("only %d of %d entries have it", len(h.Entries), len(config.Webhooks)))
			}
			r.found = append(r.found, h)
		}
	}
	return nil
}
