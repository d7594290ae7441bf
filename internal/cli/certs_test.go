package cli

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// serveCluster returns a kubeconfig for a cluster.
func serveCluster(t *testing.T, c http.Handler) string {
	t.Helper()
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := writeKubeconfig(file, server.URL); err != nil {
		t.Fatal(err)
	}
	return file
}

// Pages add up, with the content of Secrets and without, and are no larger than asked.
func TestCertsPageByPage(t *testing.T) {
	c, err := newCACluster()
	if err != nil {
		t.Fatal(err)
	}
	accounts := 0
	for _, o := range c.objects["secrets"] {
		if o.(*corev1.Secret).Type == mesh.WorkloadSecretType {
			accounts++
		}
	}
	var mu sync.Mutex
	var limits []string
	client, err := (&access{file: serveCluster(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/secrets") {
			mu.Lock()
			limits = append(limits, r.URL.Query().Get("limit"))
			mu.Unlock()
		}
		c.ServeHTTP(w, r)
	}))}).client()
	if err != nil {
		t.Fatal(err)
	}
	for _, metadata := range []bool{false, true} {
		var whole []heldAt
		for _, page := range []int{0, 1, 2, 3} {
			r := &certReader{client: client, metadata: metadata, page: page, now: time.Now()}
			r.read(t.Context())
			size := cmp.Or(page, 500)
			mu.Lock()
			want := slices.Repeat([]string{strconv.Itoa(size)}, (accounts+size-1)/size)
			if diff := gocmp.Diff(want, limits); diff != "" {
				t.Errorf("metadata %t, page of %d, limits: -want +got\n%s", metadata, page, diff)
			}
			limits = nil
			mu.Unlock()
			if len(r.unread) > 0 || len(r.found) != 10 {
				t.Fatalf("%d found, want 10; unread: %v", len(r.found), r.unread)
			}
			if whole == nil {
				whole = r.found
			}
			if diff := gocmp.Diff(whole, r.found); diff != "" {
				t.Errorf("page of %d: -whole +paged\n%s", page, diff)
			}
		}
	}
}

func TestAhead(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{"": 0, "30d": 30 * day, "0d": 0, "12h": 12 * time.Hour, "65535d": 65535 * day} {
		if got, err := ahead(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"d", "-1d", "1.5d", "65536d", "30", "-1h", "1d12h", "soon"} {
		if got, err := ahead(text); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}

func TestLeads(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	lease := func(holder string, ago time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: new(int32(15)), RenewTime: new(metav1.NewMicroTime(now.Add(-ago))),
		}}
	}
	for name, c := range map[string]struct {
		lease *coordinationv1.Lease
		want  bool
	}{
		"none":     {nil, false},
		"empty":    {&coordinationv1.Lease{}, false},
		"given up": {lease("", time.Second), false},
		"held":     {lease("a", 14*time.Second), true},
		"run out":  {lease("a", 15*time.Second), false},
	} {
		if got := leads(c.lease, now); got.Leads != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Settings come from the file, the variables and the arguments, the last of which win.
func TestCitadelSettings(t *testing.T) {
	c, err := newCACluster()
	if err != nil {
		t.Fatal(err)
	}
	m := get[*corev1.ConfigMap](c, "configmaps", citadelSettingsConfigMap+"-h7")
	m.Data["citadel.yaml"] = "trust-domain: a.example\nintermediate: false\nca: plugged\nca-namespace: keys\n"
	container := &get[*appsv1.Deployment](c, "deployments", "citadel").Spec.Template.Spec.Containers[0]
	container.Env = []corev1.EnvVar{{Name: "GARRISON_TRUST_DOMAIN", Value: "b.example"}, {Name: "GARRISON_CA", Value: "auto"}}
	container.Args = append(container.Args, "--ca=self-signed")
	client, err := (&access{file: serveCluster(t, c)}).client()
	if err != nil {
		t.Fatal(err)
	}
	got, err := readCitadelSettings(t.Context(), client, mesh.SystemNamespace)
	want := map[string]string{
		"trust-domain": "b.example", "intermediate": "false", "ca": "self-signed", "ca-namespace": "keys", "config": "/etc/garrison/citadel.yaml",
	}
	if diff := gocmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, -want +got\n%s", err, diff)
	}
	// And they count: the root signs itself, and its Secrets are elsewhere.
	for _, s := range c.objects["secrets"] {
		if s.GetName() == mesh.CASecret {
			s.SetNamespace("keys")
		}
	}
	a, err := readCA(t.Context(), client, mesh.SystemNamespace).authority(time.Now())
	if err != nil || a.Status().From != "secret keys/"+mesh.CASecret {
		t.Errorf("%v", err)
	}
	m.Data["citadel.yaml"] = "- no settings"
	if s := readCA(t.Context(), client, mesh.SystemNamespace); len(s.unread) != 1 {
		t.Errorf("unread: %v", s.unread)
	}
}

// A CA that was plugged in signs, and its Secret says so; one that is gone is missed.
func TestStatusOfPluggedCA(t *testing.T) {
	c, err := newCACluster()
	if err != nil {
		t.Fatal(err)
	}
	plugged := get[*corev1.Secret](c, "secrets", mesh.IntermediateSecret).DeepCopy()
	plugged.Name, plugged.Type = mesh.PluggedSecret, corev1.SecretTypeOpaque
	plugged.Data[mesh.CertChain] = nil
	c.objects["secrets"] = append(c.objects["secrets"], plugged)
	client, err := (&access{file: serveCluster(t, c)}).client()
	if err != nil {
		t.Fatal(err)
	}
	r := standingReader{client: client, namespace: mesh.SystemNamespace, now: time.Now()}
	s, err := r.read(t.Context())
	if err != nil || s.Signs == nil || s.Signs.Source != mesh.CAPlugged || len(s.Attention) > 0 {
		t.Errorf("%+v, %v", s, err)
	}
	delete(plugged.Data, mesh.CAKeyKey)
	if s, err := r.read(t.Context()); err != nil || s.Signs != nil || len(s.Attention) != 1 {
		t.Errorf("without its key: %+v, %v", s, err)
	}
}

// It is in Citadel's namespace even where the CA's own Secrets have one of their own.
func TestStatusOfPluggedCAElsewhere(t *testing.T) {
	c, err := newCACluster()
	if err != nil {
		t.Fatal(err)
	}
	plugged := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.SystemNamespace, Name: mesh.PluggedSecret}}
	for _, name := range []string{mesh.CASecret, mesh.IntermediateSecret} {
		get[*corev1.Secret](c, "secrets", name).Namespace = "keys"
	}
	c.objects["secrets"] = append(c.objects["secrets"], plugged)
	container := &get[*appsv1.Deployment](c, "deployments", "citadel").Spec.Template.Spec.Containers[0]
	container.Env = []corev1.EnvVar{{Name: "GARRISON_CA_NAMESPACE", Value: "keys"}}
	client, err := (&access{file: serveCluster(t, c)}).client()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range readCA(t.Context(), client, mesh.SystemNamespace).secrets {
		got = append(got, s.Namespace+"/"+s.Name)
	}
	want := []string{"keys/" + mesh.CASecret, "keys/" + mesh.IntermediateSecret, "istio-system/" + mesh.PluggedSecret}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestHeldOutputFails(t *testing.T) {
	c, err := newCACluster()
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := serveCluster(t, c)
	for _, args := range [][]string{{"certs"}, {"certs", "-o=json"}, {"ca", "status"}, {"ca", "status", "-o=yaml"}} {
		if err := Run(t.Context(), Env{Out: full{}, Err: io.Discard, Kubeconfig: kubeconfig}, args...); !errors.Is(err, errFull) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
