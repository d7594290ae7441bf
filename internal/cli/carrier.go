package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"
)

// kind is a kind of object that is a pod or makes pods.
type kind struct {
	name    string   // as in its objects
	groups  []string // of the API, without versions
	spoken  []string // by users, the first one as kubectl prints it
	path    []string // to the template; nil: it is the pod
	naming  naming
	restart bool // whether kubectl rollout restart replaces its pods
}

// naming says how a controller calls a pod that it makes, and what it labels it, as
// far as a decision may depend on it.
type naming func(workload string) (m podMeta)

// podMeta is what a controller writes into the metadata of a pod.
type podMeta struct {
	Name, GenerateName   string
	Labels               map[string]string
	OwnerKind, OwnerName string
}

// madeUp stands for what only a controller knows: a hash, a UID, the minute of a run.
const (
	madeUp       = "x"
	madeUpMinute = "28000000"
)

func behind(ownerKind string, labels ...string) naming {
	return func(workload string) podMeta {
		m := podMeta{GenerateName: workload + "-", OwnerKind: ownerKind, OwnerName: workload, Labels: map[string]string{}}
		for _, label := range labels {
			m.Labels[label] = madeUp
		}
		return m
	}
}

// behindReplicaSet has the hash of the template in between, under that label.
func behindReplicaSet(label string) naming {
	return func(workload string) podMeta {
		return behind("ReplicaSet", label)(workload + "-" + madeUp)
	}
}

func ofJob(job string) podMeta {
	m := behind("Job", "controller-uid", "batch.kubernetes.io/controller-uid")(job)
	m.Labels["job-name"], m.Labels["batch.kubernetes.io/job-name"] = job, job
	return m
}

func ofStatefulSet(set string) podMeta {
	m := behind("StatefulSet", "controller-revision-hash")(set)
	m.Name, m.GenerateName = set+"-0", ""
	m.Labels["statefulset.kubernetes.io/pod-name"], m.Labels["apps.kubernetes.io/pod-index"] = m.Name, "0"
	return m
}

var template = []string{"spec", "template"}

// kinds returns all that carry pods.
func kinds() []kind {
	apps := []string{"apps", "extensions"}
	return []kind{
		{name: "Pod", groups: []string{""}, spoken: []string{"pod", "pods", "po"}},
		{name: "Deployment", groups: apps, spoken: []string{"deployment", "deployments", "deploy"},
			path: template, naming: behindReplicaSet("pod-template-hash"), restart: true},
		{name: "StatefulSet", groups: apps, spoken: []string{"statefulset", "statefulsets", "sts"},
			path: template, naming: ofStatefulSet, restart: true},
		{name: "DaemonSet", groups: apps, spoken: []string{"daemonset", "daemonsets", "ds"},
			path: template, naming: behind("DaemonSet", "controller-revision-hash"), restart: true},
		{name: "ReplicaSet", groups: apps, spoken: []string{"replicaset", "replicasets", "rs"},
			path: template, naming: behind("ReplicaSet")},
		{name: "ReplicationController", groups: []string{""}, spoken: []string{"replicationcontroller", "replicationcontrollers", "rc"},
			path: template, naming: behind("ReplicationController")},
		{name: "Job", groups: []string{"batch"}, spoken: []string{"job", "jobs"}, path: template, naming: ofJob},
		{name: "CronJob", groups: []string{"batch"}, spoken: []string{"cronjob", "cronjobs", "cj"},
			path: []string{"spec", "jobTemplate", "spec", "template"}, naming: func(cron string) podMeta { return ofJob(cron + "-" + madeUpMinute) }},
		{name: "Rollout", groups: []string{"argoproj.io"}, spoken: []string{"rollout"}, path: template, naming: behindReplicaSet("rollouts-pod-template-hash")},
	}
}

// carrier is an object with a pod in it, or with the template of pods.
type carrier struct {
	kind   kind
	object map[string]any // put changes it
}

// String names it for people.
func (c carrier) String() string {
	name := c.name()
	if c.namespace() != "" {
		name = c.namespace() + "/" + name
	}
	return c.kind.spoken[0] + " " + name
}

// carriers finds what carries pods in an object, which may be a list.
func carriers(object map[string]any) []carrier {
	version, _ := object["apiVersion"].(string)
	name, _ := object["kind"].(string)
	return carriersOf(object, version, name)
}

func carriersOf(object map[string]any, version, name string) []carrier {
	if of, list := strings.CutSuffix(name, "List"); list {
		items, _ := object["items"].([]any)
		var all []carrier
		for _, item := range items {
			o, ok := item.(map[string]any)
			if !ok {
				continue
			}
			itemVersion, ok := o["apiVersion"].(string)
			if !ok {
				itemVersion = version
			}
			itemKind, ok := o["kind"].(string)
			if !ok {
				itemKind = of // which the list's own kind says
			}
			all = append(all, carriersOf(o, itemVersion, itemKind)...)
		}
		return all
	}
	group, _, grouped := strings.Cut(version, "/")
	if !grouped {
		group = ""
	}
	for _, k := range kinds() {
		if k.name == name && slices.Contains(k.groups, group) {
			return []carrier{{k, object}}
		}
	}
	return nil
}

func (c carrier) metadata(member string) string {
	meta, _ := c.object["metadata"].(map[string]any)
	value, _ := meta[member].(string)
	return value
}

func (c carrier) namespace() string { return c.metadata("namespace") }

// name is that of the object; what the API server will choose ends in a dash.
func (c carrier) name() string { return cmp.Or(c.metadata("name"), c.metadata("generateName")) }

// inTemplate is where a field of the pod stands in the object.
func (c carrier) inTemplate(err error) error {
	text := oneLine(err)
	if c.kind.path == nil {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %s", strings.Join(c.kind.path, "."), text)
}

// at returns the object that the pod's metadata and specification stand in.
func (c carrier) at() (map[string]any, error) {
	at := c.object
	for i, name := range c.kind.path {
		next, ok := at[name].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: missing", strings.Join(c.kind.path[:i+1], "."))
		}
		at = next
	}
	return at, nil
}

// pod returns the pod as the webhook sees it when it is created in a namespace: from a
// template, with the name, the labels and the owner that its controller gives it.
func (c carrier) pod(namespace string) ([]byte, error) {
	at, err := c.at()
	if err != nil {
		return nil, err
	}
	pod := maps.Clone(at)
	meta, _ := pod["metadata"].(map[string]any)
	if meta = maps.Clone(meta); meta == nil {
		meta = map[string]any{}
	}
	pod["metadata"] = meta
	meta["namespace"] = namespace
	if c.kind.path != nil {
		c.own(meta)
	}
	return json.Marshal(pod)
}

// own writes into a pod's metadata what its controller would.
func (c carrier) own(meta map[string]any) {
	m := c.kind.naming(strings.TrimSuffix(c.name(), "-"))
	for _, name := range []string{"name", "generateName"} {
		delete(meta, name)
	}
	if m.Name != "" {
		meta["name"] = m.Name
	} else {
		meta["generateName"] = m.GenerateName
	}
	meta["ownerReferences"] = []any{map[string]any{"kind": m.OwnerKind, "name": m.OwnerName, "controller": true}}
	labels, _ := meta["labels"].(map[string]any)
	if labels = maps.Clone(labels); labels == nil {
		labels = map[string]any{}
	}
	for name, value := range m.Labels {
		if _, ok := labels[name]; !ok {
			labels[name] = value
		}
	}
	meta["labels"] = labels
}

// put writes a pod that pod gave and somebody edited back into the object, without what
// pod added to it.
func (c carrier) put(pod []byte) error {
	at, err := c.at()
	if err != nil {
		return err
	}
	var edited map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(pod, &edited); err != nil {
		return err
	}
	was, _ := at["metadata"].(map[string]any)
	meta, _ := edited["metadata"].(map[string]any)
	back := []string{"namespace"}
	if c.kind.path != nil {
		back = append(back, "name", "generateName", "ownerReferences")
		labels, _ := meta["labels"].(map[string]any)
		had, _ := was["labels"].(map[string]any)
		for name := range c.kind.naming(c.name()).Labels {
			if _, ok := had[name]; !ok {
				delete(labels, name)
			}
		}
	}
	for _, name := range back {
		delete(meta, name)
		if value, ok := was[name]; ok {
			meta[name] = value
		}
	}
	clear(at)
	maps.Copy(at, edited)
	return nil
}

// prune drops maps of the metadata that nothing is left in, and which nobody misses.
func (c carrier) prune() error {
	at, err := c.at()
	if err != nil {
		return err
	}
	meta, _ := at["metadata"].(map[string]any)
	for _, part := range []string{"labels", "annotations"} {
		if m, ok := meta[part].(map[string]any); ok && len(m) == 0 {
			delete(meta, part)
		}
	}
	if len(meta) == 0 {
		delete(at, "metadata")
	}
	return nil
}
