package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fakeCluster is as much of an API server as looking takes: it gets and lists objects,
// by resource, with the selectors that our commands use, and refuses all else.
type fakeCluster struct {
	objects   map[string][]metav1.Object
	forbidden []string // resources
}

func (c *fakeCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(code int, reason metav1.StatusReason, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
		})
	}
	namespace, resource, name, known := parsePath(r.URL.Path)
	switch {
	case !known || r.Method != http.MethodGet:
		refuse(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, r.Method+" "+r.URL.Path)
		return
	case slices.Contains(c.forbidden, resource):
		refuse(http.StatusForbidden, metav1.StatusReasonForbidden, "forbidden: "+resource)
		return
	}
	items := []any{}
	for _, o := range c.objects[resource] {
		if (namespace == "" || o.GetNamespace() == namespace) && (name == "" || o.GetName() == name) && selectedBy(o, r.URL.Query()) {
			items = append(items, o)
		}
	}
	if name == "" && resource == "secrets" && r.URL.Query().Get("fieldSelector") != "type=istio.io/key-and-cert" {
		refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, "Secrets that are none of our business were asked for")
		return
	}
	var answer any
	switch {
	case name == "":
		answer = listOf(items, r)
	case len(items) == 0:
		refuse(http.StatusNotFound, metav1.StatusReasonNotFound, resource+" "+name+" not found")
		return
	default:
		answer = items[0]
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// listOf returns a list, or a part of it, of metadata alone where that was asked for.
func listOf(items []any, r *http.Request) any {
	var list struct {
		metav1.ListMeta `json:"metadata"`
		Items           []any `json:"items"`
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	to := len(items)
	if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 0 && from+limit < to {
		to = from + limit
		list.Continue = strconv.Itoa(to)
	}
	list.Items = items[from:to]
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		for i, item := range list.Items {
			meta := reflect.ValueOf(item).Elem().FieldByName("ObjectMeta").Interface().(metav1.ObjectMeta)
			list.Items[i] = metav1.PartialObjectMetadata{ObjectMeta: meta}
		}
	}
	return list
}

func parsePath(path string) (namespace, resource, name string, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	skip := map[string]int{"api": 2, "apis": 3}[parts[0]]
	if skip == 0 || len(parts) <= skip {
		return "", "", "", false
	}
	if parts = parts[skip:]; parts[0] == "namespaces" && len(parts) > 2 {
		namespace, parts = parts[1], parts[2:]
	}
	if len(parts) == 2 {
		name = parts[1]
	}
	return namespace, parts[0], name, len(parts) <= 2
}

func selectedBy(o metav1.Object, q map[string][]string) bool {
	for _, selector := range q["labelSelector"] {
		for term := range strings.SplitSeq(selector, ",") {
			key, value, _ := strings.Cut(term, "=")
			if o.GetLabels()[key] != value {
				return false
			}
		}
	}
	for _, selector := range q["fieldSelector"] {
		switch key, value, _ := strings.Cut(selector, "="); key {
		case "metadata.name":
			if o.GetName() != value {
				return false
			}
		case "type":
			if s, ok := o.(*corev1.Secret); !ok || string(s.Type) != value {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// cluster is a verb of scripts: it starts a fake cluster with a CA, changed in the ways
// that its arguments name, and lets the commands that follow use it.
func startCluster(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("cluster: cannot fail")
	}
	c, err := newCACluster()
	ts.Check(err)
	for _, arg := range args {
		if resource, ok := strings.CutPrefix(arg, "forbid="); ok {
			c.forbidden = append(c.forbidden, resource)
			continue
		}
		change, ok := caClusterChanges()[arg]
		if !ok {
			ts.Fatalf("cluster: no change is called %q", arg)
		}
		change(c)
	}
	server := httptest.NewServer(c)
	ts.Defer(server.Close)
	file := ts.MkAbs("kubeconfig")
	ts.Check(writeKubeconfig(file, server.URL))
	ts.Setenv("KUBECONFIG", file)
}
