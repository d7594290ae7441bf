package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// resident is what is kept of a pod or a service account: a hundred thousand of them
// have to fit into the memory of a small server.
type resident struct {
	namespace, name, uid string
	account, node        string // of a pod
	live                 bool   // not terminating; a pod: Pending or Running besides
}

// GetObjectKind and DeepCopyObject let a resident be an item of a list, so that a page
// of whole objects need not be kept until the last one has come.
func (e *resident) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is part of [runtime.Object]. A resident is never changed.
func (e *resident) DeepCopyObject() runtime.Object { return e }

// shared returns the copy of a string that all residents have in common.
func shared(s string) string { return unique.Make(s).Value() }

func residentOf(obj any) (*resident, error) {
	switch o := obj.(type) {
	case *resident:
		return o, nil
	case *corev1.Pod:
		return &resident{
			namespace: shared(o.Namespace), name: o.Name, uid: string(o.UID),
			account: shared(o.Spec.ServiceAccountName), node: shared(o.Spec.NodeName),
			live: o.DeletionTimestamp == nil && (o.Status.Phase == corev1.PodPending || o.Status.Phase == corev1.PodRunning),
		}, nil
	case metav1.Object:
		return &resident{
			namespace: shared(o.GetNamespace()), name: shared(o.GetName()), uid: string(o.GetUID()),
			live: o.GetDeletionTimestamp() == nil,
		}, nil
	}
	return nil, fmt.Errorf("%T: neither a pod nor an account", obj)
}

// mirror is what a watch knows of the pods or of the service accounts of the cluster.
type mirror struct {
	proof proof

	mu     sync.RWMutex
	byUID  map[string]*resident
	byName map[key]*resident               // of accounts; nil: names are not looked for
	byNode map[string]map[string]*resident // of pods, by UID within a node; nil likewise
}

// pod returns the pod of that UID, or nil.
func (m *mirror) pod(uid string) *resident {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byUID[uid]
}

// account returns the account of that name, or nil.
func (m *mirror) account(k key) *resident {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byName[k]
}

// onNode returns the live pods of an account on a node.
func (m *mirror) onNode(node string, account key) (found []*resident) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, e := range m.byNode[node] {
		if e.live && e.namespace == account.Namespace && e.account == account.Name {
			found = append(found, e)
		}
	}
	return found
}

func (m *mirror) len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.byUID)
}

// Add and the methods up to [mirror.UpdateResourceVersion] are what a reflector calls.
func (m *mirror) Add(obj any) error {
	e, err := residentOf(obj)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(e.uid)
	m.put(e)
	return nil
}

// Update is [mirror.Add].
func (m *mirror) Update(obj any) error { return m.Add(obj) }

// Delete forgets an object.
func (m *mirror) Delete(obj any) error {
	e, err := residentOf(obj)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(e.uid)
	return nil
}

// Replace forgets all objects but these, which are all there were at version.
func (m *mirror) Replace(objects []any, version string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byUID = make(map[string]*resident, len(objects))
	clear(m.byName)
	clear(m.byNode)
	for _, obj := range objects {
		e, err := residentOf(obj)
		if err != nil {
			return err
		}
		m.put(e)
	}
	m.proof.saw(version)
	return nil
}

// Resync has nothing to do: nobody waits for events.
func (m *mirror) Resync() error { return nil }

// UpdateResourceVersion hears of the version of each event, bookmarks included, once
// the event has been taken in.
func (m *mirror) UpdateResourceVersion(version string) { m.proof.saw(version) }

func (m *mirror) put(e *resident) {
	m.byUID[e.uid] = e
	if m.byName != nil {
		m.byName[key{Namespace: e.namespace, Name: e.name}] = e
	}
	if m.byNode != nil && e.node != "" {
		if m.byNode[e.node] == nil {
			m.byNode[e.node] = map[string]*resident{}
		}
		m.byNode[e.node][e.uid] = e
	}
}

func (m *mirror) drop(uid string) {
	e := m.byUID[uid]
	if e == nil {
		return
	}
	delete(m.byUID, uid)
	if k := (key{Namespace: e.namespace, Name: e.name}); m.byName[k] == e { // not a later one of the same name
		delete(m.byName, k)
	}
	if delete(m.byNode[e.node], uid); len(m.byNode[e.node]) == 0 {
		delete(m.byNode, e.node)
	}
}

// source is where a mirror's objects come from. now returns the version that the
// storage is at, cheaply and from no cache.
type source struct {
	kind  any // an example
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
	now   func(context.Context) (version string, err error)
}

// reflector keeps m as s is. Each watch lasts for that long: API servers send a
// bookmark two seconds before a watch ends, and else only about once a minute.
//
// Lists are by pages of the newest state. A list that is streamed as a watch would
// have to last longer.
func (s source) reflector(name string, m *mirror, each time.Duration) *cache.Reflector {
	seconds := int64(each / time.Second)
	r := cache.NewReflectorWithOptions(unstreamed{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.ResourceVersion, options.ResourceVersionMatch = "", ""
			page, err := s.list(ctx, options)
			if err != nil {
				return nil, err
			}
			return stripped(page)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.TimeoutSeconds = &seconds
			return s.watch(ctx, options)
		},
	}}, s.kind, m, cache.ReflectorOptions{Name: name})
	r.WatchListPageSize = podPage
	return r
}

// unstreamed is a source that does not offer its lists as watches.
type unstreamed struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what client-go asks.
func (unstreamed) IsWatchListSemanticsUnSupported() bool { return true }

// stripped returns the list with what is kept of its items.
func stripped(list runtime.Object) (runtime.Object, error) {
	from, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	all := &metav1.List{}
	all.ResourceVersion, all.Continue = from.GetResourceVersion(), from.GetContinue()
	all.RemainingItemCount = from.GetRemainingItemCount()
	return all, meta.EachListItem(list, func(obj runtime.Object) error {
		e, err := residentOf(obj)
		all.Items = append(all.Items, runtime.RawExtension{Object: e})
		return err
	})
}

// versionOf is the version of a list, which all that it could have held is as of.
func versionOf(list metav1.ListInterface, err error) (string, error) {
	if err == nil && list.GetResourceVersion() == "" {
		err = errors.New("list without a version")
	}
	if err != nil {
		return "", err
	}
	return list.GetResourceVersion(), nil
}
