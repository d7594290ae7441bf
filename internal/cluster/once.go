package cluster

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// ReadNamespace reads a namespace once, as [API.WatchNamespaces] shows it.
func ReadNamespace(ctx context.Context, client kubernetes.Interface, name string) (mesh.Namespace, error) {
	live, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return mesh.Namespace{}, fmt.Errorf("namespace %s: %w", name, err)
	}
	ns := &metav1.PartialObjectMetadata{ObjectMeta: live.ObjectMeta}
	_, err = trimNamespace(ns)
	return meshNamespace(ns), err
}

// ReadOlder reads the nodes once whose kubelet is older than minor, as [Nodes.Older]
// has them.
func ReadOlder(ctx context.Context, client kubernetes.Interface, minor int) ([]mesh.Node, error) {
	live, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	objects := make([]any, 0, len(live.Items))
	for i := range live.Items {
		objects = append(objects, &live.Items[i])
	}
	return newNodeView(objects).older(minor), nil
}
