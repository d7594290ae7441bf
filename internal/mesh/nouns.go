package mesh

// ServiceAccount is a Kubernetes service account, which is what the mesh gives
// identities to.
type ServiceAccount struct {
	Namespace string
	Name      string
	UID       string // tells an account from a later one of the same name
}

// String returns namespace/name.
func (a ServiceAccount) String() string { return a.Namespace + "/" + a.Name }
