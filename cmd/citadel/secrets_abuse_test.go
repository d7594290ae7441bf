package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/garrison-mesh/garrison/internal/ca"
	"github.com/garrison-mesh/garrison/internal/cluster"
	"github.com/garrison-mesh/garrison/internal/mesh"
	"github.com/garrison-mesh/garrison/internal/meshtest"
)

// abuseSecrets tries on Secrets and ConfigMaps what others got wrong. The CA and the API
// server are real.
func abuseSecrets(t *testing.T) {
	t.Helper()
	kubeconfig := meshtest.APIServer(t, os.Getenv("GARRISON_CLUSTER_BIN"))
	api, err := cluster.Connect(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	authority, _ := newAuthority(t)
	other, _ := newAuthority(t)
	v := &victims{lab: lab{api.Client}, kubeconfig: kubeconfig, authority: authority, other: other}
	for _, ns := range []string{"shop", "apart"} {
		v.makeNamespace(t, ns)
	}
	stop := v.lead(t, api, authority)
	for name, abuse := range map[string]func(*testing.T){
		"26_secret_made_or_edited_by_others":       v.edited,
		"27_annotation_points_at_another_account":  v.pointed,
		"28_foreign_type_and_immutable":            v.foreign,
		"29_account_and_namespace_go_in_between":   v.vanishing,
		"30_two_writers":                           v.twoWriters,
		"31_roots_tampered_with":                   v.roots,
		"36_secrets_only_where_they_are_asked_for": v.elsewhere,
	} {
		t.Run(name, abuse)
	}
	stop()
}

type victims struct {
	lab
	kubeconfig       string
	authority, other *ca.Authority
}

// lead keeps Secrets and ConfigMaps by the authority until it is stopped.
func (v *victims) lead(t *testing.T, api *cluster.API, authority *ca.Authority) (stop func()) {
	t.Helper()
	s, err := parse([]string{"--pod-name", "citadel"}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	l := newLeader(leader{api: api, authority: authority, settings: s, log: slog.New(slog.NewTextHandler(t.Output(), nil)), metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.keep(ctx) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (v *victims) makeNamespace(t *testing.T, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if name != "apart" {
		ns.Labels = map[string]string{mesh.InjectionLabel: "enabled"}
	}
	if _, err := v.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (v *victims) account(t *testing.T, name string) mesh.ServiceAccount {
	t.Helper()
	made, err := v.CoreV1().ServiceAccounts("shop").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return mesh.ServiceAccount{Namespace: "shop", Name: name, UID: string(made.UID)}
}

// kept waits until the account's Secret is what it should be, and another version than
// that one.
func (v *victims) kept(t *testing.T, a mesh.ServiceAccount, not string) (secret *corev1.Secret) {
	t.Helper()
	eventually(t, "the Secret of "+a.String(), func(ctx context.Context) (err error) {
		if secret, err = v.CoreV1().Secrets(a.Namespace).Get(ctx, mesh.WorkloadSecret(a.Name), metav1.GetOptions{}); err != nil {
			return err
		}
		if secret.ResourceVersion == not {
			return errors.New("still the old one")
		}
		_, err = v.authority.CheckSecret(a, secret, time.Now())
		return err
	})
	return secret
}

func (v *victims) update(t *testing.T, secret *corev1.Secret) *corev1.Secret {
	t.Helper()
	out, err := v.CoreV1().Secrets(secret.Namespace).Update(t.Context(), secret, metav1.UpdateOptions{FieldManager: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// told waits for an Event about the object of that UID.
func (v *victims) told(t *testing.T, uid, reason string) {
	t.Helper()
	eventually(t, "Event "+reason, func(ctx context.Context) error {
		events, err := v.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if string(e.InvolvedObject.UID) == uid && e.Reason == reason {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// A Secret that parses is not good for that: its signature, names, key pair and roots
// count, whatever its annotations claim.
func (v *victims) edited(t *testing.T) {
	neighbour := v.kept(t, v.account(t, "neighbour"), "")
	for name, spoil := range map[string]func(*testing.T, mesh.ServiceAccount, *corev1.Secret){
		"key": func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) { s.Data[mesh.CertKey] = []byte("mine") },
		"pair": func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) {
			s.Data[mesh.CertKey] = neighbour.Data[mesh.CertKey]
		},
		"chain": func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) {
			s.Data[mesh.CertChain] = s.Data[mesh.CertRoot]
		},
		"longer-chain": func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) {
			s.Data[mesh.CertChain] = append(s.Data[mesh.CertChain], v.other.Bundle()...)
		},
		"root": func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) { s.Data[mesh.CertRoot] = v.other.Bundle() },
		"one-root-more": func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) {
			s.Data[mesh.CertRoot] = append(s.Data[mesh.CertRoot], v.other.Bundle()...)
		},
		"other-names": func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) { s.Data = neighbour.Data },
		"nothing":     func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) { s.Data = nil },
		"no-owner":    func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) { s.OwnerReferences = nil },
		"no-label":    func(_ *testing.T, _ mesh.ServiceAccount, s *corev1.Secret) { s.Labels = nil },
		"another-ca": func(t *testing.T, a mesh.ServiceAccount, s *corev1.Secret) {
			theirs, err := v.other.NewSecret(a, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			theirs.Data[mesh.CertRoot] = s.Data[mesh.CertRoot]
			s.Data = theirs.Data // and the annotations are those of the good one
		},
	} {
		a := v.account(t, "edited-"+name)
		secret := v.kept(t, a, "")
		spoil(t, a, secret)
		spoilt := v.update(t, secret)
		if healed := v.kept(t, a, spoilt.ResourceVersion); healed.UID != secret.UID {
			t.Errorf("%s: made anew, which pods that mount it may not survive", name)
		}
		v.told(t, a.UID, "SecretRepaired")
	}

	a := mesh.ServiceAccount{Namespace: "shop", Name: "expected", UID: "1"}
	theirs, err := v.other.NewSecret(a, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	theirs.OwnerReferences = nil
	theirs.Annotations[mesh.SecretRoots] = neighbour.Annotations[mesh.SecretRoots]
	if theirs, err = v.CoreV1().Secrets("shop").Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	v.kept(t, v.account(t, "expected"), theirs.ResourceVersion)
}

// The name of a Secret decides whose it is.
func (v *victims) pointed(t *testing.T) {
	a := v.account(t, "pointing")
	secret := v.kept(t, a, "")
	secret.Annotations[mesh.ServiceAccountAnnotation] = "edited-key"
	secret.Annotations[mesh.SecretAccount] = "somebody"
	secret.Data = nil
	spoilt := v.update(t, secret)
	healed := v.kept(t, a, spoilt.ResourceVersion)
	if healed.Annotations[mesh.ServiceAccountAnnotation] != a.Name || healed.Annotations[mesh.SecretAccount] != a.UID {
		t.Errorf("annotations %v", healed.Annotations)
	}
	// Nor is a certificate made for an account that does not exist.
	nobody := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "istio.nobody", Annotations: map[string]string{mesh.ServiceAccountAnnotation: "pointing"}},
		Type:       mesh.WorkloadSecretType, Data: map[string][]byte{mesh.CertChain: []byte("expired")},
	}
	if _, err := v.CoreV1().Secrets("shop").Create(t.Context(), nobody, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	v.kept(t, v.account(t, "after-nobody"), "") // by now it was looked at
	now, err := v.CoreV1().Secrets("shop").Get(t.Context(), "istio.nobody", metav1.GetOptions{})
	if err != nil || string(now.Data[mesh.CertChain]) != "expired" {
		t.Errorf("%v, %v", now, err)
	}
}

func (v *victims) foreign(t *testing.T) {
	taken, err := v.CoreV1().Secrets("shop").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "istio.taken"}, Data: map[string][]byte{"password": []byte("x")},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a := v.account(t, "taken")
	v.told(t, a.UID, "ForeignSecret")
	if now, err := v.CoreV1().Secrets("shop").Get(t.Context(), "istio.taken", metav1.GetOptions{}); err != nil || now.ResourceVersion != taken.ResourceVersion {
		t.Errorf("the foreign Secret: %v, %v", now, err)
	}

	b := v.account(t, "frozen")
	secret := v.kept(t, b, "")
	secret.Data[mesh.CertKey], secret.Immutable = []byte("mine"), new(true)
	frozen := v.update(t, secret)
	if healed := v.kept(t, b, frozen.ResourceVersion); healed.UID == frozen.UID || healed.Immutable != nil && *healed.Immutable {
		t.Error("an immutable Secret of ours: not made anew")
	}
}

func (v *victims) vanishing(t *testing.T) {
	a := v.account(t, "reused")
	first := v.kept(t, a, "")
	if err := v.CoreV1().ServiceAccounts("shop").Delete(t.Context(), a.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b := v.account(t, "reused")
	second := v.kept(t, b, first.ResourceVersion)
	if second.UID == first.UID || len(second.OwnerReferences) != 1 || string(second.OwnerReferences[0].UID) != b.UID {
		t.Errorf("the new account's Secret: %s, owners %v", second.UID, second.OwnerReferences)
	}

	v.makeNamespace(t, "ending")
	c, err := v.CoreV1().ServiceAccounts("ending").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret := v.kept(t, mesh.ServiceAccount{Namespace: "ending", Name: "late", UID: string(c.UID)}, "")
	if err := v.CoreV1().Namespaces().Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := v.CoreV1().Secrets("ending").Delete(t.Context(), secret.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	v.kept(t, v.account(t, "after-ending"), "")
	if _, err := v.CoreV1().Secrets("ending").Get(t.Context(), secret.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("in a namespace that ends: %v", err)
	}
}

// twoWriters lets a write arrive that was decided long ago, under a lease that is
// lost: it changes nothing, and no key meets another certificate.
func (v *victims) twoWriters(t *testing.T) {
	a := v.account(t, "contested")
	v.kept(t, a, "")
	late := &laggard{hold: "/secrets/istio.contested", held: make(chan struct{}), release: make(chan struct{}), landed: make(chan int, 1)}
	deposed := late.connect(t, v.kubeconfig)
	// The old leader has other roots, so it wants to write at once.
	stopOld := v.lead(t, deposed, v.other)
	select {
	case <-late.held:
	case <-time.After(time.Minute):
		t.Fatal("the old leader writes nothing")
	}
	stopOld() // its context ends, its request does not
	secret := v.kept(t, a, "")
	secret.Labels["touched"] = "since"
	touched := v.update(t, secret)
	before := v.kept(t, a, "")
	close(late.release)
	if code := <-late.landed; code != http.StatusConflict {
		t.Errorf("a late write: %d, want a conflict", code)
	}
	after := v.kept(t, a, "")
	if string(after.Data[mesh.CertKey]) != string(before.Data[mesh.CertKey]) || after.UID != touched.UID {
		t.Error("a late write landed")
	}
}

// laggard delivers one write late, whatever became of who sent it.
type laggard struct {
	next    http.RoundTripper
	hold    string
	once    sync.Once
	held    chan struct{}
	release chan struct{}
	landed  chan int
}

// connect returns a connection to the API server that leads through the laggard.
func (l *laggard) connect(t *testing.T, kubeconfig string) *cluster.API {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if l.next, err = rest.TransportFor(config); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: l, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
	})
	t.Cleanup(proxy.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: proxy.URL}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c"}},
		CurrentContext: "c",
	}, file); err != nil {
		t.Fatal(err)
	}
	api, err := cluster.Connect(file)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func (l *laggard) RoundTrip(r *http.Request) (*http.Response, error) {
	first := false
	if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, l.hold) {
		l.once.Do(func() { first = true })
	}
	if !first {
		return l.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	sent := r.Clone(context.WithoutCancel(r.Context()))
	sent.Body = io.NopCloser(bytes.NewReader(body))
	close(l.held)
	go func() { // the test waits for landed
		<-l.release
		response, err := l.next.RoundTrip(sent)
		if err != nil {
			l.landed <- 0
			return
		}
		response.Body.Close()
		l.landed <- response.StatusCode
	}()
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func (v *victims) roots(t *testing.T) {
	name := mesh.RootConfigMap
	eventually(t, "the roots", func(ctx context.Context) error {
		_, err := v.CoreV1().ConfigMaps("apart").Get(ctx, name, metav1.GetOptions{})
		return err
	})
	found, err := v.CoreV1().ConfigMaps("apart").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 { // again and again
		found.Data = map[string]string{mesh.RootKey: string(v.other.Bundle()), "mine": fmt.Sprint(n)}
		found.ResourceVersion = ""
		if _, err := v.CoreV1().ConfigMaps("apart").Update(t.Context(), found, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the roots as they were", func(ctx context.Context) error {
			now, err := v.CoreV1().ConfigMaps("apart").Get(ctx, name, metav1.GetOptions{})
			if err == nil && (now.Data[mesh.RootKey] != string(v.authority.Bundle()) || now.Data["mine"] != fmt.Sprint(n)) {
				err = errors.New("something else in it")
			}
			return err
		})
	}
	v.told(t, string(found.UID), "RootsRepaired")
}

// Whoever may read the Secrets of a namespace has the keys of its accounts, so a
// namespace has none until it is asked for, and each holds its own account's key alone.
func (v *victims) elsewhere(t *testing.T) {
	if _, err := v.CoreV1().ServiceAccounts("apart").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "quiet"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secret := v.kept(t, v.account(t, "beside-quiet"), "")
	if _, err := v.CoreV1().Secrets("apart").Get(t.Context(), "istio.quiet", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a namespace that nobody asked for: %v", err)
	}
	block, _ := pem.Decode(secret.Data[mesh.CertChain])
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(secret.Data) != 3 || leaf.IsCA || leaf.URIs[0].Path != "/ns/shop/sa/beside-quiet" {
		t.Errorf("%d keys, %v", len(secret.Data), leaf.URIs)
	}
}
