package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	admissioninformers "k8s.io/client-go/informers/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// WatchWebhooks returns a part that calls got with the MutatingWebhookConfigurations of
// a revision, which are its own and those of its tags, by name: as they are now, then
// after every change. Calls come one after the other, states that follow in haste may be
// passed over, and the last one is always told. What got is given must not be changed.
func (a *API) WatchWebhooks(revision string, got func([]*admissionv1.MutatingWebhookConfiguration)) func(context.Context) error {
	return func(ctx context.Context) error {
		informer := newWebhookInformer(a.Client, revision)
		err := follow(ctx, informer, nil, func() error {
			var all []*admissionv1.MutatingWebhookConfiguration
			for _, obj := range informer.GetStore().List() {
				if webhook, ok := obj.(*admissionv1.MutatingWebhookConfiguration); ok {
					all = append(all, webhook)
				}
			}
			slices.SortFunc(all, func(a, b *admissionv1.MutatingWebhookConfiguration) int { return strings.Compare(a.Name, b.Name) })
			got(all)
			return nil
		})
		if err != nil {
			return fmt.Errorf("watch of webhook configurations: %w", err)
		}
		return nil
	}
}

// newWebhookInformer shows the configurations that are labelled with a revision and as
// Garrison's.
func newWebhookInformer(client kubernetes.Interface, revision string) cache.SharedIndexInformer {
	return admissioninformers.NewFilteredMutatingWebhookConfigurationInformer(client, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.LabelSelector = webhookLabels(revision)
	})
}

// webhookLabels selects the configurations that a revision serves.
func webhookLabels(revision string) string {
	return labels.Set{mesh.RevisionLabel: revision, mesh.ManagedByLabel: mesh.ManagedBy}.String()
}
