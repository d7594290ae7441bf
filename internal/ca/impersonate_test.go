package ca

import (
	"context"
	"strings"
	"testing"

	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityapi "istio.io/api/security/v1alpha1"

	"github.com/garrison-mesh/garrison/internal/mesh"
)

func codeOf(err error) codes.Code { return status.Code(err) }

const (
	ztunnelID = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
	httpbinID = "spiffe://cluster.local/ns/default/sa/httpbin"
)

var ztunnel = mesh.ServiceAccount{Namespace: "istio-system", Name: "ztunnel", UID: "z"}

// asZtunnel takes every token for one of the node proxy on n1.
func asZtunnel(context.Context, string) (Caller, error) {
	return Caller{Account: ztunnel, PodName: "ztunnel-1", PodUID: "zp", Node: "n1", How: ProofLocal}, nil
}

// node is a cluster where httpbin and sleep run on n1.
func node() *running {
	httpbin := mesh.ServiceAccount{Namespace: "default", Name: "httpbin", UID: "h"}
	return &running{pods: []mesh.Pod{sleepPod, {Name: "httpbin-1", UID: "hp", Account: httpbin, Node: "n1", Live: true}}}
}

func trusting(a *Authority, auth Authenticator, w Workloads) *Service {
	return NewService(a, auth, ServiceOptions{Workloads: w, NodeAccounts: []mesh.ServiceAccount{{Namespace: "istio-system", Name: "ztunnel"}}})
}

// impersonate asks for a certificate of another, as ztunnel does.
func impersonate(t testing.TB, ctx context.Context, s *Service, id string) (*securityapi.IstioCertificateResponse, error) {
	t.Helper()
	return s.CreateCertificate(ctx, &securityapi.IstioCertificateRequest{
		Csr:      csrFor(t),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{impersonationKey: structpb.NewStringValue(id)}},
	})
}

func TestNodeProxyGetsThePodsOfItsNode(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	service := trusting(a, asZtunnel, node())
	out, err := impersonate(t, bearing(t, token), service, httpbinID)
	if err != nil {
		t.Fatal(err)
	}
	leaf := expectChain(t, out.CertChain, httpbinID, time.Now())
	from, err := parseOrigin(originIn(leaf))
	if err != nil || from.kind != byNode || from.pod != "hp" || from.account != "h" {
		t.Errorf("origin %+v, %v", from, err)
	}
	if e := kept.only(t); e.ID != httpbinID || e.Node != "n1" || e.Pod != "hp" || e.How != "token-local" || e.Policy != service.byNode {
		t.Errorf("recorded %+v", e)
	}
	if own, err := obtain(t, bearing(t, token), service); err != nil || own.chain[0].URIs[0].String() != ztunnelID {
		t.Errorf("its own: %v", err)
	}
}

func TestNodeProxyRefusals(t *testing.T) {
	asked := func(change func(*Caller)) Authenticator {
		return func(ctx context.Context, token string) (Caller, error) {
			c, err := asZtunnel(ctx, token)
			change(&c)
			return c, err
		}
	}
	on := func(change func(*mesh.Pod)) *running {
		r := node()
		change(&r.pods[1])
		return r
	}
	const message = "request impersonation authentication failure"
	for name, c := range map[string]struct {
		auth    Authenticator
		cluster *running
		id      string
		code    codes.Code
		message string
		rule    Rule
	}{
		"another account":     {asked(func(c *Caller) { c.Account = sleep }), node(), httpbinID, codes.Unauthenticated, message, RuleImpersonator},
		"no node":             {asked(func(c *Caller) { c.Node = "" }), node(), httpbinID, codes.Unauthenticated, message, RuleImpersonator},
		"no pod":              {asked(func(c *Caller) { c.PodUID = "" }), node(), httpbinID, codes.Unauthenticated, message, RuleImpersonator},
		"another node":        {asked(func(c *Caller) { c.Node = "n2" }), node(), httpbinID, codes.Unauthenticated, message, RuleImpersonatedNode},
		"nobody there":        {asZtunnel, node(), "spiffe://cluster.local/ns/default/sa/nobody", codes.Unauthenticated, message, RuleImpersonatedNode},
		"pod that ended":      {asZtunnel, on(func(p *mesh.Pod) { p.Live = false }), httpbinID, codes.Unauthenticated, message, RuleImpersonatedNode},
		"pod without UID":     {asZtunnel, on(func(p *mesh.Pod) { p.UID = "" }), httpbinID, codes.Unauthenticated, message, RuleImpersonatedNode},
		"no SPIFFE ID":        {asZtunnel, node(), "default/httpbin", codes.Unauthenticated, message, RuleImpersonated},
		"foreign":             {asZtunnel, node(), "spiffe://other.example/ns/default/sa/httpbin", codes.Unauthenticated, message, RuleImpersonated},
		"nobody can tell":     {asZtunnel, &running{err: ErrUnavailable}, httpbinID, codes.Unavailable, "authentication is not available", RuleUnavailable},
		"what they told lies": {asZtunnel, &running{err: context.Canceled}, httpbinID, codes.Internal, "internal error", RuleInternal},
	} {
		t.Run(name, func(t *testing.T) {
			var kept book
			a, _ := open(t, time.Now(), Options{Recorder: &kept})
			service := trusting(a, c.auth, c.cluster)
			service.options.PodlessAccounts = service.options.NodeAccounts
			_, err := impersonate(t, bearing(t, token), service, c.id)
			expectRefusal(t, err, c.code, c.message)
			kept.expectRefusal(t, err, c.rule)
		})
	}
}

// mistaken answers with one pod, whatever it is asked for.
type mistaken struct{ mesh.Pod }

func (m mistaken) Alive(context.Context, mesh.ServiceAccount, string, string) error { return nil }

func (m mistaken) OnNode(context.Context, string, string, string) (mesh.Pod, error) {
	return m.Pod, nil
}

// What the watches answer is compared with what they were asked.
func TestNodeProxyGetsNoOtherPod(t *testing.T) {
	good := node().pods[1]
	for name, change := range map[string]func(*mesh.Pod){
		"none":              func(*mesh.Pod) {},
		"another node":      func(p *mesh.Pod) { p.Node = "n2" },
		"another namespace": func(p *mesh.Pod) { p.Account.Namespace = "kube-system" },
		"another account":   func(p *mesh.Pod) { p.Account.Name = "sleep" },
	} {
		pod := good
		change(&pod)
		a, _ := open(t, time.Now(), Options{})
		want := codes.Unauthenticated
		if name == "none" {
			want = codes.OK
		}
		if _, err := impersonate(t, bearing(t, token), trusting(a, asZtunnel, mistaken{pod}), httpbinID); codeOf(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A CSR that names the proxy itself is not one for the pod.
func TestNodeProxyNamesThePodInItsCSR(t *testing.T) {
	a, _ := open(t, time.Now(), Options{})
	service := trusting(a, asZtunnel, node())
	for uri, want := range map[string]codes.Code{httpbinID: codes.OK, ztunnelID: codes.InvalidArgument} {
		_, err := service.CreateCertificate(bearing(t, token), &securityapi.IstioCertificateRequest{
			Csr:      csrFor(t, uri),
			Metadata: fieldsOf(t, map[string]any{impersonationKey: httpbinID}),
		})
		if codeOf(err) != want {
			t.Errorf("%s: %v, want %s", uri, err, want)
		}
	}
}

// Whoever asks for what is not theirs is found in the record by who they are.
func TestRefusedImpersonatorIsOnRecord(t *testing.T) {
	var kept book
	a, _ := open(t, time.Now(), Options{Recorder: &kept})
	service := trusting(a, asSleep, node())
	if _, err := impersonate(t, bearing(t, token), service, httpbinID); codeOf(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
	if e := kept.only(t); e.ID != sleepID || !strings.Contains(e.Reason, httpbinID) {
		t.Errorf("recorded %+v, want who asked, and for whom", e)
	}
}
