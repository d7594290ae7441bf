package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestWrite(t *testing.T) {
	dir, now := Dir(t.TempDir()), time.Now()
	addr := netip.MustParseAddr("10.203.0.2")
	err := dir.Write(Cluster{Name: "demo", Server: "https://10.203.0.2:6443", Addrs: []netip.Addr{addr}, Nodes: []Node{{"node1", addr}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if b, err := os.ReadFile(dir.CA()); err != nil || !roots.AppendCertsFromPEM(b) {
		t.Fatalf("no root: %v", err)
	}
	for who, use := range map[string]x509.VerifyOptions{
		APIServer:         {DNSName: "kubernetes.default.svc", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		KubeletServer(1):  {DNSName: "10.203.0.2", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		Admin:             {KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		APIServerClient:   {KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		ControllerManager: {KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		Scheduler:         {KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		KubeProxy:         {KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		Kubelet(1):        {KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		pair, err := tls.LoadX509KeyPair(dir.Cert(who), dir.Key(who))
		if err != nil {
			t.Errorf("%s: %v", who, err)
			continue
		}
		use.Roots, use.CurrentTime = roots, now.Add(24*time.Hour)
		if _, err := pair.Leaf.Verify(use); err != nil {
			t.Errorf("%s: %v", who, err)
		}
		use.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		if _, err := pair.Leaf.Verify(use); err == nil {
			t.Errorf("%s may do what it was not made for", who)
		}
		if st, err := os.Stat(dir.Key(who)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("key of %s: %v, %v", who, st.Mode(), err)
		}
	}
	kubelet, err := tls.LoadX509KeyPair(dir.Cert(Kubelet(1)), dir.Key(Kubelet(1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := kubelet.Leaf.Subject.String(); got != "CN=system:node:node1,O=system:nodes" {
		t.Errorf("kubelet is %s", got)
	}
}

func TestKubeconfig(t *testing.T) {
	b, err := Kubeconfig("demo", "https://x:1", []byte("root"), Pair{Cert: []byte("cert"), Key: []byte("key")})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		CurrentContext string `json:"current-context"`
		Clusters       []struct {
			Name    string
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			}
		}
		Contexts []struct {
			Name    string
			Context struct{ Cluster, User string }
		}
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Clusters) != 1 || len(got.Users) != 1 || len(got.Contexts) != 1 {
		t.Fatalf("not one of each:\n%s", b)
	}
	c, u, x := got.Clusters[0], got.Users[0].User, got.Contexts[0]
	if c.Cluster.Server != "https://x:1" || string(c.Cluster.CA) != "root" || string(u.Cert) != "cert" || string(u.Key) != "key" {
		t.Errorf("got %+v", got)
	}
	if got.CurrentContext != x.Name || x.Context.Cluster != c.Name {
		t.Errorf("the context leads nowhere: %+v", got)
	}
}

func TestServiceAccountKeys(t *testing.T) {
	private, public, err := ServiceAccountKeys()
	if err != nil {
		t.Fatal(err)
	}
	decode := func(b []byte) []byte {
		block, rest := pem.Decode(b)
		if block == nil || len(rest) > 0 {
			t.Fatal("not one PEM block")
		}
		return block.Bytes
	}
	key, err := x509.ParsePKCS8PrivateKey(decode(private))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.ParsePKIXPublicKey(decode(public))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("token"))
	sig, err := key.(*rsa.PrivateKey).Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, sum[:], sig); err != nil {
		t.Error(err)
	}
}
