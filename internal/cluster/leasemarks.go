package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// maxMarks bounds what a Lease carries; the oldest marks go first.
const maxMarks = 128

// LeaseMarks are what the holder of a Lease tells all who hold it later: that something was
// done which is to be done once. They are in an annotation of the Lease, which its
// holder may write anyhow, and outlive Events and processes.
type LeaseMarks struct {
	api             *API
	namespace, name string
}

// LeaseMarks returns those of a Lease, which has to be there: [API.Lead] makes it.
func (a *API) LeaseMarks(namespace, name string) LeaseMarks {
	return LeaseMarks{api: a, namespace: namespace, name: name}
}

// Has reports whether a mark was left.
func (m LeaseMarks) Has(ctx context.Context, mark string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	lease, err := m.read(ctx)
	if err != nil {
		return false, m.named(err)
	}
	return slices.Contains(marksOf(lease), mark), nil
}

// Leave leaves a mark, a word without commas. Whoever renews the Lease meanwhile is not
// overwritten: then it is tried again, for as long as one request may take.
func (m LeaseMarks) Leave(ctx context.Context, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	_, err := patiently(ctx, func(ctx context.Context) (*coordinationv1.Lease, error) {
		lease, err := m.read(ctx)
		if err != nil {
			return nil, err
		}
		marks := marksOf(lease)
		if slices.Contains(marks, mark) {
			return lease, nil
		}
		marks = append(marks, mark)
		marks = marks[max(0, len(marks)-maxMarks):]
		metav1.SetMetaDataAnnotation(&lease.ObjectMeta, mesh.LeaseMarks, strings.Join(marks, ","))
		return m.api.leases.CoordinationV1().Leases(m.namespace).Update(ctx, lease, metav1.UpdateOptions{FieldManager: mesh.CitadelFieldManager})
	})
	return m.named(err)
}

func (m LeaseMarks) read(ctx context.Context) (*coordinationv1.Lease, error) {
	return m.api.leases.CoordinationV1().Leases(m.namespace).Get(ctx, m.name, metav1.GetOptions{})
}

func (m LeaseMarks) named(err error) error {
	if err != nil {
		return fmt.Errorf("lease %s/%s: %w", m.namespace, m.name, err)
	}
	return nil
}

func marksOf(lease *coordinationv1.Lease) []string {
	text := lease.Annotations[mesh.LeaseMarks]
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
