package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// right is one thing that a service account may do: a rule of RBAC multiplied out.
// A request is one too, with nothing left open.
type right struct {
	account   string // in istio-system
	verb      string
	resource  string // resource.group/subresource, or the path of a URL that is none
	name      string // "": any
	namespace string // "": every one, and none
}

// String is how the list of rights that are kept though unused spells it.
func (r right) String() string {
	words := []string{r.account, r.verb, r.resource}
	if r.name != "" {
		words = append(words, r.name)
	}
	if r.namespace != "" {
		words = append(words, "in", r.namespace)
	}
	return strings.Join(words, " ")
}

func (r right) covers(request right) bool {
	return r.account == request.account && r.verb == request.verb && r.resource == request.resource &&
		(r.name == "" || r.name == request.name) && (r.namespace == "" || r.namespace == request.namespace)
}

// rights UNUSED compares what Garrison's service accounts may do on the cluster with
// what they did since it was installed, by the API server's audit log. It wants
// every request allowed, by a right of Garrison's own, and every right used, but for
// those that UNUSED lists, a line each with the reason after #. Without UNUSED it says
// nothing of what was not used.
func rights(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: rights [unused-file]")
	}
	granted := grants(ts)
	requests, refused := requested(ts, granted)
	if len(args) == 0 {
		if len(refused) > 0 {
			ts.Fatalf("%s", strings.Join(refused, "\n"))
		}
		return
	}
	kept := map[string]bool{}
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		entry, why, _ := strings.Cut(line, "#")
		if strings.TrimSpace(why) == "" {
			ts.Fatalf("rights: %s: no reason after #: %s", args[0], line)
		}
		kept[strings.TrimSpace(entry)] = true
	}

	wrong := refused
	used := map[right]bool{}
	for request := range requests {
		known := false
		for _, r := range granted {
			if r.covers(request) {
				used[r], known = true, true
			}
		}
		if !known {
			wrong = append(wrong, "allowed by somebody else's role: "+request.String())
		}
	}
	for _, r := range granted {
		switch {
		case strings.Contains(r.verb+r.resource, "*"):
			wrong = append(wrong, "granted with a wildcard: "+r.String())
		case !used[r] && !kept[r.String()]:
			wrong = append(wrong, "granted and never used: "+r.String())
		}
		delete(kept, r.String())
	}
	for entry := range kept {
		wrong = append(wrong, "listed in "+args[0]+" and not granted: "+entry)
	}
	ts.Logf("%d rights, %d of them used, by %d kinds of request", len(granted), len(used), len(requests))
	if len(wrong) > 0 {
		slices.Sort(wrong)
		ts.Fatalf("%s", strings.Join(wrong, "\n"))
	}
}

// grants returns the rights of each service account that is Garrison's, by whatever
// role is bound to it by name.
func grants(ts *testscript.TestScript) []right {
	var accounts metav1.PartialObjectMetadataList
	list(ts, &accounts, "-n", "istio-system", "get", "serviceaccounts", "-l", "app.kubernetes.io/managed-by=garrison")
	if len(accounts.Items) == 0 {
		ts.Fatalf("rights: no service account of Garrison's")
	}
	var (
		clusterBindings rbacv1.ClusterRoleBindingList
		bindings        rbacv1.RoleBindingList
		clusterRoles    rbacv1.ClusterRoleList
		roles           rbacv1.RoleList
	)
	list(ts, &clusterBindings, "get", "clusterrolebindings")
	list(ts, &bindings, "get", "rolebindings", "-A")
	list(ts, &clusterRoles, "get", "clusterroles")
	list(ts, &roles, "get", "roles", "-A")

	rules := map[[2]string][]rbacv1.PolicyRule{} // by namespace and name
	for _, r := range clusterRoles.Items {
		rules[[2]string{"", r.Name}] = r.Rules
	}
	for _, r := range roles.Items {
		rules[[2]string{r.Namespace, r.Name}] = r.Rules
	}
	for _, b := range clusterBindings.Items { // a binding of every namespace
		bindings.Items = append(bindings.Items, rbacv1.RoleBinding{Subjects: b.Subjects, RoleRef: b.RoleRef})
	}
	all := map[right]bool{} // two rules may say the same
	for _, b := range bindings.Items {
		role := [2]string{b.Namespace, b.RoleRef.Name}
		if b.RoleRef.Kind == "ClusterRole" {
			role[0] = ""
		}
		for _, account := range accounts.Items {
			if !slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool {
				return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == account.Namespace && s.Name == account.Name
			}) {
				continue
			}
			for _, rule := range rules[role] {
				for _, r := range multiply(rule) {
					r.account, r.namespace = account.Name, b.Namespace
					all[r] = true
				}
			}
		}
	}
	return slices.Collect(maps.Keys(all))
}

// multiply returns the rights of a rule, of no account and no namespace yet.
func multiply(rule rbacv1.PolicyRule) (rights []right) {
	resources := slices.Clone(rule.NonResourceURLs)
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			resource, sub, _ := strings.Cut(resource, "/")
			resources = append(resources, spell(group, resource, sub))
		}
	}
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	for _, verb := range rule.Verbs {
		for _, resource := range resources {
			for _, name := range names {
				rights = append(rights, right{verb: verb, resource: resource, name: name})
			}
		}
	}
	return rights
}

func spell(group, resource, sub string) string {
	if group != "" {
		resource += "." + group
	}
	if sub != "" {
		resource += "/" + sub
	}
	return resource
}

// event is what we read of an audit.k8s.io/v1 Event.
type event struct {
	RequestURI string
	Verb       string
	User       struct{ Username string }
	ObjectRef  *struct{ Resource, Subresource, APIGroup, Namespace, Name string }

	RequestReceivedTimestamp time.Time
	Annotations              map[string]string
}

// requested returns what the accounts that something is granted to asked for since
// Garrison was installed, and a line for each request that was refused for want of a
// right. Other refusals, such as a namespace that is ending gives, are no matter of rights.
func requested(ts *testscript.TestScript, granted []right) (requests map[right]bool, refused []string) {
	ours := map[string]bool{}
	for _, r := range granted {
		ours[r.account] = true
	}
	installed, err := time.Parse(time.RFC3339, kubectl(ts, "get", "namespace", "istio-system", "-o", "jsonpath={.metadata.creationTimestamp}"))
	ts.Check(err)
	// The current one, and those that it was rotated into.
	logs, err := filepath.Glob(filepath.Join(filepath.Dir(ts.Getenv("KUBECONFIG")), "logs", "audit*.log"))
	ts.Check(err)
	requests = map[right]bool{}
	for _, log := range logs {
		data, err := os.ReadFile(log)
		ts.Check(err)
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, len(data)+1)
		for lines.Scan() {
			if !bytes.Contains(lines.Bytes(), []byte("system:serviceaccount:istio-system:")) {
				continue
			}
			var e event
			ts.Check(json.Unmarshal(lines.Bytes(), &e))
			account, ok := strings.CutPrefix(e.User.Username, "system:serviceaccount:istio-system:")
			if !ok || !ours[account] || e.RequestReceivedTimestamp.Before(installed) {
				continue
			}
			r := e.right()
			r.account = account
			if e.Annotations["authorization.k8s.io/decision"] != "allow" {
				refused = append(refused, "refused: "+r.String()+" ("+e.RequestURI+")")
				continue
			}
			requests[r] = true
		}
		ts.Check(lines.Err())
	}
	if len(requests) == 0 {
		ts.Fatalf("rights: nothing was asked for by %v in %v", slices.Sorted(maps.Keys(ours)), logs)
	}
	return requests, refused
}

// right is what the request needs, of no account yet.
func (e event) right() right {
	if e.ObjectRef == nil {
		path := e.RequestURI
		if u, err := url.Parse(path); err == nil {
			path = u.Path
		}
		return right{verb: e.Verb, resource: path}
	}
	o := e.ObjectRef
	return right{verb: e.Verb, resource: spell(o.APIGroup, o.Resource, o.Subresource), name: o.Name, namespace: o.Namespace}
}

func list(ts *testscript.TestScript, into any, args ...string) {
	ts.Check(json.Unmarshal([]byte(kubectl(ts, append(args, "-o", "json")...)), into))
}
