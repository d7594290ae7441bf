package pki

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Dir is where a cluster's files are: certificates and keys by the names below,
// and a kubeconfig for each user.
type Dir string

// The files that settings refer to.
func (d Dir) CA() string                    { return d.file("ca.crt") }
func (d Dir) CAKey() string                 { return d.file("ca.key") }
func (d Dir) Cert(who string) string        { return d.file(who + ".crt") }
func (d Dir) Key(who string) string         { return d.file(who + ".key") }
func (d Dir) ServiceAccountKey() string     { return d.file("sa.key") }
func (d Dir) ServiceAccountPub() string     { return d.file("sa.pub") }
func (d Dir) Kubeconfig(user string) string { return d.file(user + ".kubeconfig") }
func (d Dir) file(name string) string       { return filepath.Join(string(d), name) }

// The holders of certificates, beside [Kubelet] and [KubeletServer].
const (
	Admin             = "admin"
	APIServer         = "apiserver"
	APIServerClient   = "apiserver-kubelet-client"
	ControllerManager = "controller-manager"
	Scheduler         = "scheduler"
	KubeProxy         = "kube-proxy"
)

// Kubelet is the kubelet of node n as a client of the API server.
func Kubelet(n int) string { return "kubelet-" + strconv.Itoa(n) }

// KubeletServer is the same kubelet as a server.
func KubeletServer(n int) string { return "kubelet-server-" + strconv.Itoa(n) }

// Cluster is what the certificates name.
type Cluster struct {
	Name   string
	Server string       // URL of the API server
	Addrs  []netip.Addr // of the API server
	Nodes  []Node
}

// Node is one node of the cluster.
type Node struct {
	Name string
	Addr netip.Addr
}

// Write makes all keys and certificates of a cluster and writes them to d, which
// it makes where it is missing.
func (d Dir) Write(c Cluster, now time.Time) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	ca, err := New(c.Name, now)
	if err != nil {
		return err
	}
	w := writer{dir: d, ca: ca, cluster: c}
	w.put(d.CA(), ca.Pair().Cert)
	w.put(d.CAKey(), ca.Pair().Key)
	private, public, err := ServiceAccountKeys()
	if err != nil {
		return err
	}
	w.put(d.ServiceAccountKey(), private)
	w.put(d.ServiceAccountPub(), public)

	w.pair(APIServer, Leaf{User: "kube-apiserver", Addrs: c.Addrs, Names: []string{"localhost", "kubernetes",
		"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}})
	w.pair(APIServerClient, Leaf{User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	w.user(Admin, Leaf{User: "admin", Groups: []string{"system:masters"}})
	w.user(ControllerManager, Leaf{User: "system:kube-controller-manager"})
	w.user(Scheduler, Leaf{User: "system:kube-scheduler"})
	w.user(KubeProxy, Leaf{User: "system:kube-proxy"})
	for i, n := range c.Nodes {
		w.user(Kubelet(i+1), Leaf{User: "system:node:" + n.Name, Groups: []string{"system:nodes"}})
		w.pair(KubeletServer(i+1), Leaf{User: "system:node:" + n.Name, Names: []string{n.Name}, Addrs: []netip.Addr{n.Addr}})
	}
	return errors.Join(w.errs...)
}

// writer keeps the errors of a row of writes, to be looked at once.
type writer struct {
	dir     Dir
	ca      *Authority
	cluster Cluster
	errs    []error
}

func (w *writer) put(file string, b []byte) {
	w.errs = append(w.errs, os.WriteFile(file, b, 0o600))
}

func (w *writer) pair(who string, l Leaf) Pair {
	p, err := w.ca.Issue(l)
	w.errs = append(w.errs, err)
	w.put(w.dir.Cert(who), p.Cert)
	w.put(w.dir.Key(who), p.Key)
	return p
}

func (w *writer) user(who string, l Leaf) {
	p := w.pair(who, l)
	b, err := Kubeconfig(w.cluster.Name, w.cluster.Server, w.ca.Pair().Cert, p)
	w.errs = append(w.errs, err)
	w.put(w.dir.Kubeconfig(who), b)
}
