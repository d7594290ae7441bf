package mesh

// ServiceAccount is one service account as it exists now. The UID tells it from
// an earlier one of the same name, whose credentials are none of its business.
type ServiceAccount struct {
	Namespace string
	Name      string
	UID       string
}

// String returns namespace/name, for people.
func (a ServiceAccount) String() string { return a.Namespace + "/" + a.Name }

// Namespace is what injection needs to know of a namespace.
type Namespace struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// Node is a node as far as it limits what pods on it may have.
type Node struct {
	Name   string
	Labels map[string]string
	Taints []Taint
	Minor  int // of its kubelet's version, 33 of v1.33.1
}

// Taint keeps pods off a node that do not tolerate it.
type Taint struct{ Key, Value, Effect string }

// Pod is a pod as far as a certificate depends on it.
type Pod struct {
	Name, UID string
	Account   ServiceAccount // UID empty where not known
	Node      string
	Live      bool // Pending or Running and not terminating
}
