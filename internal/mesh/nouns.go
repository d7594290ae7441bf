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
