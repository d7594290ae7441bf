package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	securityapi "istio.io/api/security/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

// running is a cluster in memory.
type running struct {
	pods     []mesh.Pod
	accounts []mesh.ServiceAccount
	err      error // instead of any answer
}

func (r *running) Alive(_ context.Context, account mesh.ServiceAccount, _, podUID string) error {
	if r.err != nil {
		return r.err
	}
	for _, p := range r.pods {
		if p.Live && p.UID == podUID && p.Account == account {
			return nil
		}
	}
	if podUID == "" && slices.Contains(r.accounts, account) {
		return nil
	}
	return fmt.Errorf("%w: pod %s is gone", ErrUnauthenticated, podUID)
}

func (r *running) OnNode(_ context.Context, node, namespace, account string) (mesh.Pod, error) {
	if r.err != nil {
		return mesh.Pod{}, r.err
	}
	for _, p := range r.pods {
		if p.Node == node && p.Account.Namespace == namespace && p.Account.Name == account {
			return p, nil
		}
	}
	return mesh.Pod{}, fmt.Errorf("%w: no pod of %s/%s on node %s", ErrUnauthenticated, namespace, account, node)
}

var sleepPod = mesh.Pod{Name: "sleep-1", UID: "p1", Account: sleep, Node: "n1", Live: true}

// held is a client certificate as its holder would show it.
type held struct {
	chain []*x509.Certificate
	key   *ecdsa.PrivateKey
}

func (h held) pair() tls.Certificate {
	pair := tls.Certificate{PrivateKey: h.key, Leaf: h.chain[0]}
	for _, c := range h.chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// shown is the context of a call in process whose handshake proved a certificate, with
// a token unless it is empty.
func shown(ctx context.Context, token string, chain ...*x509.Certificate) context.Context {
	if token != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
	}
	return peer.NewContext(ctx, &peer.Peer{Addr: &net.IPAddr{}, AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{
		PeerCertificates: chain,
	}}})
}

// obtain gets a certificate with the credentials of a context.
func obtain(t testing.TB, ctx context.Context, s *Service) (held, error) {
	t.Helper()
	key := ecdsaKey(t, elliptic.P256())
	out, err := s.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{Csr: csr(t, key, x509.CertificateRequest{})})
	if err != nil {
		return held{}, err
	}
	h := held{key: key}
	for _, element := range out.CertChain[:len(out.CertChain)-1] {
		h.chain = append(h.chain, parseLeaf(t, element))
	}
	return h, nil
}

func mustObtain(t testing.TB, ctx context.Context, s *Service) held {
	t.Helper()
	h, err := obtain(t, ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// signLeaf makes a certificate as the authority would sign it, without asking whether
// it should.
func signLeaf(t testing.TB, a *Authority, n names, now time.Time) held {
	t.Helper()
	key := ecdsaKey(t, elliptic.P256())
	cert, err := a.current.Load().issue(n, mustParse(t, csr(t, key, x509.CertificateRequest{})), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return held{append([]*x509.Certificate{cert.leaf}, a.current.Load().chain...), key}
}

func encoded(t testing.TB, o leafOrigin) []byte {
	t.Helper()
	der, err := o.encode()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A certificate renews itself for a week after its token, over TLS as an agent does it,
// below an intermediate too; then a token is needed again.
func TestRenewalByCertificate(t *testing.T) {
	for name, a := range map[string]*Authority{
		"root":         only(open(t, time.Now(), Options{})),
		"intermediate": only(openBelow(t, time.Now())),
	} {
		t.Run(name, func(t *testing.T) {
			var kept book
			a.options.Recorder = &kept
			service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
			before := mustObtain(t, bearing(t, token), service)
			conn := dial(t, a, service, "istio-citadel", before.pair())
			out, err := securityapi.NewIstioCertificateServiceClient(conn).CreateCertificate(t.Context(),
				&securityapi.IstioCertificateRequest{Csr: csrFor(t, sleepID)})
			if err != nil {
				t.Fatal(err)
			}
			after := expectChain(t, out.CertChain, sleepID, time.Now())
			if after.SerialNumber.Cmp(before.chain[0].SerialNumber) == 0 {
				t.Error("the same certificate again")
			}
			if string(originIn(after)) != string(originIn(before.chain[0])) {
				t.Error("the renewal counts as a token")
			}
			if e := kept.entries[len(kept.entries)-1]; e.How != "certificate" || e.Pod != "p1" || e.ID != sleepID {
				t.Errorf("recorded %+v", e)
			}
		})
	}
}

func only[A, B any](a A, _ B) A { return a }

func TestRenewalEndsAWeekAfterTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, time.Now(), Options{})
		service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
		h := mustObtain(t, bearing(t, token), service)
		began := time.Now()
		for time.Since(began) < MaxRenewal {
			time.Sleep(12 * time.Hour)
			h = mustObtain(t, shown(t.Context(), "", h.chain...), service)
		}
		time.Sleep(time.Second)
		_, err := obtain(t, shown(t.Context(), "", h.chain...), service)
		expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
		// A token begins the week anew, whatever certificate comes with it.
		h = mustObtain(t, shown(t.Context(), token, h.chain...), service)
		time.Sleep(12 * time.Hour)
		mustObtain(t, shown(t.Context(), "", h.chain...), service)
	})
}

func TestRenewalByCertificateRefuses(t *testing.T) {
	now := time.Now()
	a, secret := open(t, now.Add(-30*24*time.Hour), Options{})
	// forged is what this authority would never sign.
	forged := func(origin []byte, uris ...string) []*x509.Certificate {
		root := rootOf(t, secret)
		return []*x509.Certificate{root.below(t, "", func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage, c.NotAfter = false, x509.KeyUsageDigitalSignature, now.Add(time.Hour)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			c.URIs = urls(t, uris...)
			c.ExtraExtensions = []pkix.Extension{{Id: originOID(), Value: origin}}
		}).cert}
	}
	id, good := mustID(t, sleepID), leafOrigin{byToken, sleep.UID, "p1", now.Add(-time.Hour)}
	leaf := func(n names) []*x509.Certificate { return signLeaf(t, a, n, now).chain }
	stranger, _ := open(t, now, Options{})
	late := good
	late.proven = now.Add(-MaxRenewal - time.Second)
	future := good
	future.proven = now.Add(skew + time.Hour)
	noPod := good
	noPod.pod = ""
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		rule  Rule
	}{
		"of a Secret":             {leaf(names{id: id}), RuleCertificateKind},
		"asked for by a proxy":    {leaf(names{id: id, origin: encoded(t, leafOrigin{byNode, sleep.UID, "p1", now})}), RuleCertificateKind},
		"odd origin":              {leaf(names{id: id, origin: []byte{5, 0}}), RuleCertificateKind},
		"another trust domain":    {leaf(names{id: mustID(t, "spiffe://other.example/ns/default/sa/sleep"), origin: encoded(t, good)}), RuleCertificateName},
		"no URI":                  {forged(encoded(t, good)), RuleCertificateName},
		"two URIs":                {forged(encoded(t, good), sleepID, httpbinID), RuleCertificateName},
		"token long ago":          {leaf(names{id: id, origin: encoded(t, late)}), RuleCertificateAge},
		"token to come":           {leaf(names{id: id, origin: encoded(t, future)}), RuleCertificateAge},
		"account of earlier days": {leaf(names{id: id, origin: encoded(t, leafOrigin{byToken, "older", "p1", now})}), RuleCertificatePod},
		"pod that is gone":        {leaf(names{id: id, origin: encoded(t, leafOrigin{byToken, sleep.UID, "p0", now})}), RuleCertificatePod},
		"no pod":                  {leaf(names{id: id, origin: encoded(t, noPod)}), RuleTokenPod},
		"expired":                 {signLeaf(t, a, names{id: id, origin: encoded(t, good)}, now.Add(-2*time.Hour)).chain, RuleCertificateRoot},
		"another root":            {signLeaf(t, stranger, names{id: id, origin: encoded(t, good)}, now).chain, RuleCertificateRoot},
	} {
		t.Run(name, func(t *testing.T) {
			var kept book
			a.options.Recorder = &kept
			service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}, accounts: []mesh.ServiceAccount{sleep}}})
			_, err := obtain(t, shown(t.Context(), "", c.chain...), service)
			expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
			kept.expectRefusal(t, err, c.rule)
		})
	}
	service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
	mustObtain(t, shown(t.Context(), "", forged(encoded(t, good), sleepID)...), service) // all else about those is fine
	mustObtain(t, shown(t.Context(), "", leaf(names{id: id, origin: encoded(t, good)})...), service)
	blind := NewService(a, asSleep, ServiceOptions{})
	if _, err := obtain(t, shown(t.Context(), "", leaf(names{id: id, origin: encoded(t, good)})...), blind); err == nil {
		t.Error("renewed though nobody knows what runs")
	}
}

// A root may have signed for others: what hangs from it, but was not signed here, renews
// nothing, whoever it names. What the CA signed before its intermediate was renewed does.
func TestCertificateOfAnotherCA(t *testing.T) {
	now := time.Now()
	birth := now.Add(-300 * 24 * time.Hour)
	root := first(NewRoot(RootOptions{}, birth))
	ours := intermediate(t, root, nil, birth)
	start := func(secret *corev1.Secret) *Authority {
		a, err := Start(Material{Root: root, Intermediate: secret}, Options{}, now)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, sibling := start(ours), start(intermediate(t, root, nil, now))
	direct, err := Open(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := names{id: mustID(t, sleepID), origin: encoded(t, leafOrigin{byToken, sleep.UID, "p1", now})}
	var kept book
	a.options.Recorder = &kept
	service := NewService(a, asSleep, ServiceOptions{Workloads: &running{pods: []mesh.Pod{sleepPod}}})
	_, err = obtain(t, shown(t.Context(), "", signLeaf(t, sibling, n, now).chain...), service)
	expectRefusal(t, err, codes.Unauthenticated, "request authenticate failure")
	kept.expectRefusal(t, err, RuleCertificateRoot)
	mustObtain(t, shown(t.Context(), "", signLeaf(t, direct, n, now).chain...), service) // before there was an intermediate
	old := signLeaf(t, a, n, now)
	mustObtain(t, shown(t.Context(), "", old.chain...), service)
	renewed := intermediate(t, root, ours, now)
	if changed, err := a.Replace(Material{Root: root, Intermediate: renewed}, now); err != nil || !changed {
		t.Fatalf("Replace = %t, %v", changed, err)
	}
	mustObtain(t, shown(t.Context(), "", old.chain...), service)
}

// A root verifies by itself, and nobody signed it who signs leaves.
func TestRootIsNoClient(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	wantError(t, a.verifyClient(a.current.Load().roots[0], time.Now()), "was signed by another CA")
}
