package cluster

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
)

// fakeCluster is an API server without sockets, for tests in which time is faked. What
// is written by one of its clients is seen by the other, with a version of its own;
// server-side apply refuses another version or UID than it was decided from.
func fakeCluster(t *testing.T, ns *corev1.Namespace, accounts ...runtime.Object) *API {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(ns)
	meta := metadatafake.NewSimpleMetadataClient(scheme, accounts...)
	var version atomic.Int64
	mirror := func(s *corev1.Secret) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: s.ObjectMeta}
	}
	client.PrependReactor("create", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		s := a.(clienttesting.CreateAction).GetObject().(*corev1.Secret).DeepCopy()
		n := version.Add(1)
		s.ResourceVersion, s.UID = fmt.Sprint(n), types.UID(fmt.Sprintf("s%d", n))
		if err := client.Tracker().Create(secretResource, s, s.Namespace); err != nil {
			return true, nil, err
		}
		return true, s, meta.Tracker().Create(secretResource, mirror(s), s.Namespace)
	})
	client.PrependReactor("patch", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		patch := a.(clienttesting.PatchAction)
		found, err := client.Tracker().Get(secretResource, a.GetNamespace(), patch.GetName())
		if err != nil {
			return true, nil, err
		}
		s := found.(*corev1.Secret).DeepCopy()
		was := s.ObjectMeta
		if err := json.Unmarshal(patch.GetPatch(), s); err != nil {
			return true, nil, err
		}
		if s.UID != was.UID || s.ResourceVersion != was.ResourceVersion {
			return true, nil, apierrors.NewConflict(secretResource.GroupResource(), s.Name, nil)
		}
		s.ResourceVersion = fmt.Sprint(version.Add(1))
		if err := client.Tracker().Update(secretResource, s, s.Namespace); err != nil {
			return true, nil, err
		}
		return true, s, meta.Tracker().Update(secretResource, mirror(s), s.Namespace)
	})
	client.PrependReactor("delete", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return false, nil, meta.Tracker().Delete(secretResource, a.GetNamespace(), a.(clienttesting.DeleteAction).GetName())
	})
	return &API{Client: client, bulk: client, metadata: meta}
}
