package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

const accountsPerNamespace = 100

// simulated is an API server with many service accounts and as much of the rest as
// keeping Secrets asks for. It answers in JSON, which costs its client more than a real
// one's protobuf would.
type simulated struct {
	accounts int
	reads    atomic.Int64 // of single Secrets

	mu      sync.Mutex
	changed *sync.Cond
	version int
	secrets map[string]*corev1.Secret
	order   []string // their keys, as they were made
	log     []string // keys, as they were written: where a watch is
	written map[string]bool
}

func newSimulated(accounts int) *simulated {
	s := &simulated{accounts: accounts, secrets: map[string]*corev1.Secret{}, written: map[string]bool{}}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// forget starts counting the Secrets that are written, and the reads.
func (s *simulated) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = map[string]bool{}
	s.reads.Store(0)
}

// done returns for how many accounts a Secret was written.
func (s *simulated) done() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.written)
}

func (s *simulated) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces", s.fixed("NamespaceList", func(yield func(any)) {
		for n := range (s.accounts + accountsPerNamespace - 1) / accountsPerNamespace {
			yield(&corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("team-%d", n), UID: uid("n", n), ResourceVersion: "1", Labels: map[string]string{mesh.InjectionLabel: "enabled"},
			}})
		}
	}))
	mux.HandleFunc("GET /api/v1/serviceaccounts", s.fixed("PartialObjectMetadataList", func(yield func(any)) {
		for n := range s.accounts {
			yield(partial("ServiceAccount", metav1.ObjectMeta{
				Namespace: fmt.Sprintf("team-%d", n/accountsPerNamespace), Name: fmt.Sprintf("account-%d", n), UID: uid("a", n), ResourceVersion: "1",
				Labels: map[string]string{"app.kubernetes.io/name": fmt.Sprintf("service-%d", n)},
			}))
		}
	}))
	mux.HandleFunc("GET /api/v1/pods", s.fixed("PodList", func(yield func(any)) { // one of each account
		for n := range s.accounts {
			yield(&corev1.Pod{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
				ObjectMeta: metav1.ObjectMeta{
					Namespace: fmt.Sprintf("team-%d", n/accountsPerNamespace), Name: fmt.Sprintf("account-%d-5d4f8c7b9-abcde", n), UID: uid("p", n), ResourceVersion: "1",
				},
				Spec:   corev1.PodSpec{ServiceAccountName: fmt.Sprintf("account-%d", n), NodeName: fmt.Sprintf("node-%d", n%1000)},
				Status: corev1.PodStatus{Phase: corev1.PodRunning},
			})
		}
	}))
	for kind, resource := range map[string]string{"PodList": "pods", "ServiceAccountList": "serviceaccounts"} {
		mux.HandleFunc("GET /api/v1/namespaces/{namespace}/"+resource, s.fixed(kind, func(func(any)) {})) // only its version is asked for
	}
	mux.HandleFunc("GET /api/v1/secrets", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			s.watch(w, r)
			return
		}
		s.page(w, r)
	})
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		s.reads.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if found, ok := s.secrets[key(r)]; ok {
			reply(w, http.StatusOK, found)
			return
		}
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	})
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/secrets", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		made := &corev1.Secret{}
		if err == nil {
			_, _, err = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Decode(body, nil, made)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		k := made.Namespace + "/" + made.Name
		if _, ok := s.secrets[k]; ok {
			refuse(w, http.StatusConflict, metav1.StatusReasonAlreadyExists)
			return
		}
		made.UID = uid("s", len(s.order))
		s.order = append(s.order, k)
		s.put(k, made)
		reply(w, http.StatusCreated, made)
	})
	mux.HandleFunc("PATCH /api/v1/namespaces/{namespace}/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		next := &corev1.Secret{}
		if err := json.NewDecoder(r.Body).Decode(next); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		k := key(r)
		if found, ok := s.secrets[k]; !ok || found.UID != next.UID || found.ResourceVersion != next.ResourceVersion {
			refuse(w, http.StatusConflict, metav1.StatusReasonConflict)
			return
		}
		s.put(k, next)
		reply(w, http.StatusOK, next)
	})
	return mux
}

// put stores a Secret under a new version; the caller holds the lock.
func (s *simulated) put(k string, secret *corev1.Secret) {
	s.version++
	secret.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	secret.ResourceVersion = fmt.Sprint(s.version + 1)
	s.secrets[k], s.written[k] = secret, true
	s.log = append(s.log, k)
	s.changed.Broadcast()
}

// fixed serves objects that never change, by pages or as a watch.
func (s *simulated) fixed(list string, all func(yield func(any))) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") != "" {
			if r.URL.Query().Get("sendInitialEvents") == "true" {
				all(func(o any) { event(w, "ADDED", o) })
				bookmark(w, strings.TrimSuffix(list, "List"), 1)
			}
			flush(w)
			<-r.Context().Done()
			return
		}
		limit, from := span(r)
		items, n, meta := []any{}, 0, map[string]string{"resourceVersion": "1"}
		all(func(o any) {
			if n++; n > from+limit {
				meta["continue"] = fmt.Sprint(from + limit)
			} else if n > from {
				items = append(items, o)
			}
		})
		reply(w, http.StatusOK, map[string]any{"apiVersion": "v1", "kind": list, "metadata": meta, "items": items})
	}
}

// watch streams the metadata of Secrets: those that there are, then each that is
// written.
func (s *simulated) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	gone := false
	defer func() { s.mu.Unlock() }()
	s.mu.Lock()
	go func() { // ends with the request
		<-r.Context().Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		gone = true
		s.changed.Broadcast()
	}()
	for _, k := range s.order {
		event(w, "ADDED", partial("Secret", s.secrets[k].ObjectMeta))
	}
	bookmark(w, "PartialObjectMetadata", s.version+1)
	flush(w)
	for at := len(s.log); !gone; {
		for ; at < len(s.log); at++ {
			event(w, "MODIFIED", partial("Secret", s.secrets[s.log[at]].ObjectMeta)) // to a cache ADDED is the same
		}
		flush(w)
		s.changed.Wait()
	}
}

// page serves so many Secrets as are asked for, by the order in which they were made.
func (s *simulated) page(w http.ResponseWriter, r *http.Request) {
	limit, from := span(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	out := corev1.SecretList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "SecretList"}, ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(s.version + 1)}}
	end := min(len(s.order), from+limit)
	for _, k := range s.order[from:end] {
		out.Items = append(out.Items, *s.secrets[k])
	}
	if end < len(s.order) {
		out.Continue = fmt.Sprint(end)
	}
	reply(w, http.StatusOK, out)
}

// span returns how many objects a list is to hold, all without a limit, and after which.
func span(r *http.Request) (limit, from int) {
	limit = 1 << 30
	_, _ = fmt.Sscan(r.URL.Query().Get("limit"), &limit)
	_, _ = fmt.Sscan(r.URL.Query().Get("continue"), &from)
	return limit, from
}

func key(r *http.Request) string { return r.PathValue("namespace") + "/" + r.PathValue("name") }

// uid is as long as real ones.
func uid(kind string, n int) types.UID {
	return types.UID(fmt.Sprintf("%s%07x-0000-4000-8000-%012x", kind, n, n))
}

func partial(kind string, m metav1.ObjectMeta) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"}, ObjectMeta: m}
}

func event(w io.Writer, kind string, object any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object}) // a client that has gone hears nothing
}

// bookmark ends what a watch begins with.
func bookmark(w io.Writer, kind string, version int) {
	api := "v1"
	if kind == "PartialObjectMetadata" {
		api = "meta.k8s.io/v1"
	}
	event(w, "BOOKMARK", map[string]any{"apiVersion": api, "kind": kind, "metadata": map[string]any{
		"resourceVersion": fmt.Sprint(version), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"},
	}})
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

func reply(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	reply(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}
