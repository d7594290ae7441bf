package cluster

import (
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// What the watches of Secrets, accounts and pods keep of each: at 50,000 accounts an
// object's metadata as it arrives is ten times what the loop reads of it.

// sight is what is kept of every object. It stands in for the object in a cache.
type sight struct {
	namespace unique.Handle[string] // shared by all objects of the namespace
	name      string
	uid       types.UID
	version   string
}

func sightOf(o metav1.Object) sight {
	return sight{unique.Make(o.GetNamespace()), o.GetName(), o.GetUID(), o.GetResourceVersion()}
}

// GetObjectMeta is how caches and event handlers ask for names.
func (s *sight) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: s.namespace.Value(), Name: s.name, UID: s.uid, ResourceVersion: s.version}
}

// secretSight is a Secret of our type without its data. What its annotations say
// is in hints.
type secretSight struct {
	sight
	owner   types.UID // the service account that it says it belongs to; empty: none
	managed bool      // has our label
	ending  bool
	hints   hints
}

// hints are what the annotations say. Whoever may write a Secret may write them, so
// they decide what to look at first and nothing else.
type hints struct {
	expires int64 // Unix time; 0: not said, or not understood
	roots   unique.Handle[string]
	account types.UID
}

func trimSecret(obj any) (any, error) {
	o, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return obj, nil // trimmed already
	}
	s := &secretSight{
		sight:   sightOf(o),
		owner:   ownerOf(o),
		managed: o.Labels[mesh.ManagedByLabel] == mesh.ManagedBy,
		ending:  o.DeletionTimestamp != nil,
		hints:   hints{roots: unique.Make(o.Annotations[mesh.SecretRoots])},
	}
	if at, err := time.Parse(time.RFC3339, o.Annotations[mesh.SecretExpiry]); err == nil {
		s.hints.expires = at.Unix()
	}
	if s.hints.account = types.UID(o.Annotations[mesh.SecretAccount]); s.hints.account == s.owner {
		s.hints.account = s.owner // one string
	}
	return s, nil
}

// accountSight is a service account.
type accountSight struct {
	sight
	labels map[string]string
	ending bool
}

func trimAccount(labels bool) cache.TransformFunc {
	return func(obj any) (any, error) {
		o, ok := obj.(*metav1.PartialObjectMetadata)
		if !ok {
			return obj, nil
		}
		a := &accountSight{sight: sightOf(o), ending: o.DeletionTimestamp != nil}
		if labels {
			a.labels = o.Labels
		}
		return a, nil
	}
}

// podSight is a pod that has not ended.
type podSight struct {
	sight
	account string
}

func trimUser(obj any) (any, error) {
	o, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	return &podSight{sight: sightOf(o), account: o.Spec.ServiceAccountName}, nil
}

// byAccount indexes pods by whom they run as.
const byAccount = "account"

func accountsOfPod(obj any) ([]string, error) {
	if p, ok := obj.(*podSight); ok {
		return []string{p.key().String()}, nil
	}
	return nil, nil
}

// key names the account that the pod runs as.
func (p *podSight) key() key { return key{Namespace: p.namespace.Value(), Name: p.account} }
