package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// holder is a certificate and its key. They are the same in each run, so that scripts can
// compare fingerprints.
type holder struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newHolder lets by, or the zero value for itself, sign for a subject or an URI.
func newHolder(name string, by holder, years ...int) (holder, error) {
	seed := sha256.Sum256([]byte(name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		return holder{}, err
	}
	start := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(seed[1:9]), NotBefore: start(years[0]), NotAfter: start(years[1]),
		BasicConstraintsValid: true,
	}
	if uri, err := url.Parse(name); err == nil && uri.Scheme == "spiffe" {
		template.URIs = []*url.URL{uri}
		template.KeyUsage = x509.KeyUsageDigitalSignature
	} else {
		template.Subject = pkix.Name{Organization: []string{mesh.DefaultClusterDomain}, CommonName: name}
		template.IsCA, template.KeyUsage, template.SubjectKeyId = true, x509.KeyUsageCertSign, seed[:20]
	}
	if by.cert == nil {
		by = holder{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(nil, template, by.cert, key.Public(), by.key) // without chance
	if err != nil {
		return holder{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return holder{cert, key}, err
}

func inPEM(certs ...holder) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
	}
	return text
}

func (h holder) keyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(h.key)
	if err != nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func writeKubeconfig(file, server string) error {
	return os.WriteFile(file, []byte(`{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: x, cluster: {server: "`+server+
		`"}}], contexts: [{name: x, context: {cluster: x, namespace: shop}}]}`), 0o600)
}

// newCACluster is a cluster where all is well: a CA of its own in istio-system, accounts
// with certificates in shop.
func newCACluster() (*fakeCluster, error) {
	var errs []error
	made := func(name string, by holder, from, to int) holder {
		h, err := newHolder(name, by, from, to)
		errs = append(errs, err)
		return h
	}
	root := made("root", holder{}, 2000, 2100)
	signer := made("intermediate", root, 2000, 2090)
	leaf := func(account string) holder {
		namespace, name, _ := strings.Cut(account, "/")
		return made("spiffe://cluster.local/ns/"+namespace+"/sa/"+name, signer, 2000, 2080)
	}
	archive, err := txtar.ParseFile(filepath.Join("testdata", "calog.txtar"))
	errs = append(errs, err)
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return nil, errs[i]
	}
	published := map[string]string{}
	for _, f := range archive.Files {
		if f.Name == "checkpoint.json" {
			published["citadel-5d9c7b9c4-x2x8p"] = strings.TrimSpace(string(f.Data))
		}
	}
	const system = mesh.SystemNamespace
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{mesh.ManagedByLabel: mesh.ManagedBy, "app": "citadel"}}
	}
	account := func(namespace, name string) *corev1.Secret {
		h := leaf(namespace + "/" + name)
		s := &corev1.Secret{ObjectMeta: meta(namespace, "istio."+name), Type: mesh.WorkloadSecretType, Data: map[string][]byte{
			mesh.CertChain: inPEM(h, signer), mesh.CertKey: h.keyPEM(), mesh.CertRoot: inPEM(root),
		}}
		s.Annotations = map[string]string{mesh.SecretExpiry: h.cert.NotAfter.Format(time.RFC3339)}
		return s
	}
	roots := func(namespace string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: meta(namespace, mesh.RootConfigMap), Data: map[string]string{mesh.RootKey: string(inPEM(root))}}
	}
	pod := func(name, node string) *corev1.Pod {
		at := metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		return &corev1.Pod{ObjectMeta: meta(system, name), Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{
			Phase:             corev1.PodRunning,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: citadelContainer, RestartCount: 1}},
		}}
	}
	settings := corev1.Volume{Name: "settings"}
	settings.ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: citadelSettingsConfigMap + "-h7"}}
	entry := func(name string) admissionregistrationv1.MutatingWebhook {
		return admissionregistrationv1.MutatingWebhook{Name: name, ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: inPEM(root)}}
	}
	renewed := metav1.NewMicroTime(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC))
	return &fakeCluster{objects: map[string][]metav1.Object{
		"secrets": {
			&corev1.Secret{ObjectMeta: meta(system, mesh.CASecret), Type: mesh.CASecretType, Data: map[string][]byte{
				mesh.CACertKey: inPEM(root), mesh.CAKeyKey: root.keyPEM(), mesh.RootKey: inPEM(root),
			}},
			&corev1.Secret{ObjectMeta: meta(system, mesh.IntermediateSecret), Type: mesh.IntermediateSecretType, Data: map[string][]byte{
				mesh.CACertKey: inPEM(signer), mesh.CAKeyKey: signer.keyPEM(), mesh.RootKey: inPEM(root),
			}},
			account(system, "istio-citadel-service-account"),
			account("shop", "cart"),
			account("shop", "web"),
			&corev1.Secret{ObjectMeta: meta("shop", "istio.password"), Type: corev1.SecretTypeOpaque},
		},
		"configmaps": {
			roots(system), roots("shop"), roots("bank"),
			&corev1.ConfigMap{ObjectMeta: meta("shop", "other")},
			&corev1.ConfigMap{ObjectMeta: meta(system, settings.ConfigMap.Name), Data: map[string]string{"citadel.yaml": "trust-domain: cluster.local\n"}},
			&corev1.ConfigMap{ObjectMeta: meta(system, mesh.IssuanceLogConfigMap), Data: published},
		},
		"mutatingwebhookconfigurations": {&admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: meta("", mesh.InjectorWebhook),
			Webhooks:   []admissionregistrationv1.MutatingWebhook{entry("a.sidecar-injector.istio.io"), entry("b.sidecar-injector.istio.io")},
		}},
		"deployments": {&appsv1.Deployment{ObjectMeta: meta(system, "citadel"), Spec: appsv1.DeploymentSpec{
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				Volumes:    []corev1.Volume{settings},
				Containers: []corev1.Container{{Name: citadelContainer, Args: []string{"--config=/etc/garrison/citadel.yaml"}}},
			}},
		}}},
		"pods": {pod("citadel-5d9c7b9c4-zzzzz", "b"), pod("citadel-5d9c7b9c4-x2x8p", "a")},
		"leases": {&coordinationv1.Lease{ObjectMeta: meta(system, mesh.CitadelLease), Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("citadel-5d9c7b9c4-x2x8p"), LeaseDurationSeconds: new(int32(15)), RenewTime: &renewed,
		}}},
	}}, nil
}

// get returns the object of a name, of the type that its resource has.
func get[T metav1.Object](c *fakeCluster, resource, name string) (found T) {
	for _, o := range c.objects[resource] {
		if o.GetName() == name {
			return o.(T)
		}
	}
	return found
}

// caClusterChanges are what the verb cluster knows to do to a cluster.
func caClusterChanges() map[string]func(*fakeCluster) {
	secret := func(c *fakeCluster, name string) *corev1.Secret { return get[*corev1.Secret](c, "secrets", name) }
	made := func(name string, by holder, from, to int) holder {
		h, err := newHolder(name, by, from, to)
		if err != nil {
			panic(err) // it did not for the cluster itself
		}
		return h
	}
	return map[string]func(*fakeCluster){
		"root-key-offline": func(c *fakeCluster) { delete(secret(c, mesh.CASecret).Data, mesh.CAKeyKey) },
		"revoked": func(c *fakeCluster) {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.SystemNamespace, Name: mesh.RevocationsConfigMap}}
			m.Data = map[string]string{mesh.RevocationsKey: `
- {id: spiffe://cluster.local/ns/shop/sa/cart, before: "2026-01-02T03:04:05Z", reason: node n7 broken into}
- {serial: "4f:1c:09:aa", reason: "key in\na backup"}
`}
			c.objects["configmaps"] = append(c.objects["configmaps"], m)
		},
		"misspelt": func(c *fakeCluster) {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.SystemNamespace, Name: mesh.RevocationsConfigMap}}
			m.Data = map[string]string{mesh.RevocationsKey: "- {sreial: ab, reason: x}\n"}
			c.objects["configmaps"] = append(c.objects["configmaps"], m)
		},
		"revoked-citadel": func(c *fakeCluster) {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: mesh.SystemNamespace, Name: mesh.RevocationsConfigMap}}
			m.Data = map[string]string{mesh.RevocationsKey: "- {id: spiffe://cluster.local/ns/istio-system/sa/istio-citadel-service-account, reason: x}\n"}
			c.objects["configmaps"] = append(c.objects["configmaps"], m)
		},
		"no-ca": func(c *fakeCluster) { c.objects["secrets"] = nil },
		"no-log": func(c *fakeCluster) {
			c.objects["configmaps"] = slices.DeleteFunc(c.objects["configmaps"], func(o metav1.Object) bool { return o.GetName() == mesh.IssuanceLogConfigMap })
		},
		"in-files": func(c *fakeCluster) {
			spec := &get[*appsv1.Deployment](c, "deployments", "citadel").Spec.Template.Spec
			spec.Containers[0].Args = append(spec.Containers[0].Args, "--ca-dir=/etc/cacerts")
		},
		"other-roots": func(c *fakeCluster) { // workloads of bank trust a stranger, one entry's API server too
			other := made("other root", holder{}, 2000, 2070)
			for _, o := range c.objects["configmaps"] {
				if o.GetNamespace() == "bank" {
					o.(*corev1.ConfigMap).Data[mesh.RootKey] = string(inPEM(other))
				}
			}
			entries := get[*admissionregistrationv1.MutatingWebhookConfiguration](c, "mutatingwebhookconfigurations", mesh.InjectorWebhook).Webhooks
			entries[1].ClientConfig.CABundle = nil
		},
		"spoilt": func(c *fakeCluster) {
			root := made("root", holder{}, 2000, 2100)
			other := made("other root", holder{}, 2000, 2070)
			copyOf := func(name string) *corev1.Secret {
				s := secret(c, "istio.cart").DeepCopy()
				s.Name = "istio." + name
				c.objects["secrets"] = append(c.objects["secrets"], s)
				return s
			}
			copyOf("thief")
			copyOf("swapped").Data[mesh.CertKey] = other.keyPEM()
			copyOf("keyless").Data[mesh.CertKey] = nil
			copyOf("torn").Data[mesh.CertChain] = []byte("-----BEGIN CERTIFICATE-----\n")
			old := made("spiffe://cluster.local/ns/shop/sa/old", root, 2000, 2001)
			s := copyOf("old")
			s.Data[mesh.CertChain], s.Data[mesh.CertKey] = inPEM(old), old.keyPEM()
			foreign := made("spiffe://cluster.local/ns/shop/sa/foreign", other, 2000, 2060)
			s = copyOf("foreign")
			s.Data[mesh.CertChain], s.Data[mesh.CertKey], s.Data[mesh.CertRoot] = inPEM(foreign), foreign.keyPEM(), inPEM(other)
		},
		"broken": func(c *fakeCluster) { // Citadel
			renewed := metav1.NewMicroTime(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC))
			get[*coordinationv1.Lease](c, "leases", mesh.CitadelLease).Spec.RenewTime = &renewed
			status := &get[*corev1.Pod](c, "pods", "citadel-5d9c7b9c4-zzzzz").Status
			status.Conditions[0].Status = corev1.ConditionFalse
			status.Conditions[0].Message = "containers with unready status: [citadel]"
			status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
			get[*corev1.ConfigMap](c, "configmaps", mesh.IssuanceLogConfigMap).Data["citadel-gone"] = "{}"
			secret(c, mesh.IntermediateSecret).Data[mesh.CAKeyKey] = made("other root", holder{}, 2000, 2070).keyPEM()
		},
	}
}
